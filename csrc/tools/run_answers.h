// sbk-run: what a model says of texts, by its head.
#pragma once
#include <string>
#include <vector>

#include "tools/run_session.h"

namespace sbk::tools {

// Texts of one answer: those of the command line, or the fields of a line.
using Texts = std::vector<std::string>;

// Lines of text, or one line of JSON. UsageError if the head cannot use so many texts.
std::string answer(const Session& session, const Texts& texts);

// {question, context}: the best spans of the context. What is longer than a window is read window by window, and the
// best spans of all are given. As transformers' question-answering pipeline computes it: probabilities of a window's
// [CLS] and context tokens; the score of a span is P(start) P(end), of at most max_answer tokens; whole words.
std::string answer_question(const Session& session, const Texts& texts, Json* json);

std::string format(const char* pattern, ...) __attribute__((format(printf, 1, 2)));

}  // namespace sbk::tools
