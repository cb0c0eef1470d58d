// sbk-run: question answering, in windows over the context.
#include <algorithm>

#include "tools/run_answers.h"

namespace sbk::tools {
namespace {

struct Answer {
  double score;
  size_t begin, end;  // bytes of the context
};

// A part of the context that fits beside the question.
struct Window {
  Tokens tokens;                // [CLS] question [SEP] context [SEP]
  size_t first, last;           // context tokens [first, last)
  size_t offset;                // byte of the context that its token offsets count from
  std::vector<bool> continues;  // by token: not the beginning of a word
};

void add(std::vector<Answer>* answers, const Answer& answer, size_t most) {
  for (Answer& known : *answers) {
    if (known.begin == answer.begin && known.end == answer.end) {
      known.score = std::max(known.score, answer.score);
      return;
    }
  }
  answers->push_back(answer);
  std::stable_sort(answers->begin(), answers->end(),
                   [](const Answer& a, const Answer& b) { return a.score > b.score; });
  if (answers->size() > most) answers->pop_back();
}

void search(const Session& session, const Window& window, size_t most, std::vector<Answer>* answers) {
  const std::vector<float> logits = session.logits({window.tokens});
  std::vector<float> starts{logits[0]}, ends{logits[1]};  // [CLS]: no answer
  for (size_t i = window.first; i < window.last; i++)
    starts.push_back(logits[2 * i]), ends.push_back(logits[2 * i + 1]);
  const std::vector<double> start = softmax(starts.data(), starts.size()), end = softmax(ends.data(), ends.size());
  const size_t n = window.last - window.first, longest = static_cast<size_t>(session.options().max_answer);
  for (size_t s = 0; s < n; s++) {
    for (size_t e = s; e < std::min(n, s + longest); e++) {
      const double score = start[s + 1] * end[e + 1];
      if (answers->size() == most && score <= answers->back().score) continue;
      size_t from = window.first + s, to = window.first + e;
      while (from > window.first && window.continues[from]) from--;
      while (to + 1 < window.last && window.continues[to + 1]) to++;
      const auto& t = window.tokens;
      add(answers,
          {score, window.offset + static_cast<size_t>(t.begin[from]), window.offset + static_cast<size_t>(t.end[to])},
          most);
    }
  }
}

// The context token that the next window begins with: `stride` before the end, at the beginning of a word.
size_t next_first(const Window& window, size_t stride) {
  const size_t wanted = std::max(window.first + 1, window.last - std::min(stride, window.last));
  for (size_t i = wanted; i > window.first; i--) {
    if (!window.continues[i]) return i;
  }
  for (size_t i = wanted; i < window.last; i++) {
    if (!window.continues[i]) return i;
  }
  return wanted;
}

}  // namespace

std::string answer_question(const Session& session, const Texts& texts, Json* json) {
  if (texts.size() != 2) throw UsageError("a question answering model takes a question and a context");
  const RunOptions& options = session.options();
  const std::string_view context = texts[1];
  const Tokens question = session.tokenize(texts[0]);
  const int64_t size = std::min<int64_t>(options.window, session.info().max_length);
  const int64_t room = size - question.size() - 1;
  if (question.truncated || room < 1) {
    throw std::runtime_error("the question is too long: " + std::to_string(question.size()) +
                             " tokens leave no room for the context in a window of " + std::to_string(size));
  }
  const auto stride = static_cast<size_t>(std::min(options.stride, room - 1));
  const size_t most = options.top > 0 ? static_cast<size_t>(options.top) : 1;

  std::vector<Answer> answers;
  int64_t windows = 0;
  for (size_t offset = 0;; windows++) {
    const Tokens part = session.tokenize(context.substr(offset), nullptr, static_cast<int32_t>(room + 2));
    Window window{question, question.ids.size(), question.ids.size() + part.ids.size() - 2, offset, {}};
    Tokens& all = window.tokens;
    all.ids.insert(all.ids.end(), part.ids.begin() + 1, part.ids.end());
    all.begin.insert(all.begin.end(), part.begin.begin() + 1, part.begin.end());
    all.end.insert(all.end.end(), part.end.begin() + 1, part.end.end());
    all.types.resize(all.ids.size(), 1);
    if (window.first == window.last) break;  // nothing but white space
    for (const int32_t id : all.ids) window.continues.push_back(session.continues(id));
    search(session, window, most, &answers);
    if (!part.truncated) {
      windows++;
      break;
    }
    const size_t next = next_first(window, stride);
    if (next >= window.last) break;
    offset += static_cast<size_t>(all.begin[next]);
  }
  if (answers.empty()) throw std::runtime_error("the context has no tokens");

  std::string lines;
  json->field("windows", windows).key("answers").open('[');
  for (const Answer& answer : answers) {
    const std::string text(context.substr(answer.begin, answer.end - answer.begin));
    json->open('{').field("answer", text).field("score", answer.score);
    json->field("begin", static_cast<int64_t>(answer.begin)).field("end", static_cast<int64_t>(answer.end)).close();
    lines += format("%.4f  %s\n", answer.score, shown(text).c_str());
  }
  json->close();
  return lines;
}

}  // namespace sbk::tools
