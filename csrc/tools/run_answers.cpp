// sbk-run: answers by head. Question answering is in run_question.cpp.
#include "tools/run_answers.h"

#include <cmath>
#include <cstdarg>
#include <cstdio>

namespace sbk::tools {

std::string format(const char* pattern, ...) {
  va_list arguments, again;
  va_start(arguments, pattern);
  va_copy(again, arguments);
  std::string text(static_cast<size_t>(std::vsnprintf(nullptr, 0, pattern, arguments)) + 1, '\0');
  va_end(arguments);
  std::vsnprintf(text.data(), text.size(), pattern, again);
  va_end(again);
  text.pop_back();
  return text;
}

namespace {

Tokens tokenize_one_or_two(const Session& session, const Texts& texts) {
  const int32_t max_length = session.options().embedding ? session.info().embedding_max_length : 0;
  if (texts.empty() || texts.size() > 2) throw UsageError("this model takes one text, or two as a pair");
  // An empty second text is no pair to transformers.
  const std::string_view pair = texts.size() == 2 ? std::string_view(texts[1]) : std::string_view();
  return session.tokenize_noting(texts[0], pair.empty() ? nullptr : &pair, max_length);
}

std::string_view slice(const Texts& texts, const Tokens& t, size_t first, size_t last) {
  const std::string_view text = texts[t.types[first] == 1 ? 1 : 0];
  const auto begin = static_cast<size_t>(t.begin[first]), end = static_cast<size_t>(t.end[last]);
  return begin <= end && end <= text.size() ? text.substr(begin, end - begin) : std::string_view();
}

// "tokens": [{"id", "text", "begin", "end"}], or lines.
std::string show_tokens(const Session& session, const Tokens& t, Json* json) {
  std::string lines;
  json->key("tokens").open('[');
  for (size_t i = 0; i < t.ids.size(); i++) {
    const std::string text = session.token_text(t.ids[i]);
    json->open('{').field("id", t.ids[i]).field("text", text).field("type", t.types[i]);
    json->field("begin", t.begin[i]).field("end", t.end[i]).close();
    lines += format("%6d  %d  %5lld-%-5lld  %s\n", t.ids[i], t.types[i], static_cast<long long>(t.begin[i]),
                    static_cast<long long>(t.end[i]), shown(text).c_str());
  }
  json->close();
  return lines;
}

std::string classify(const Session& session, const Tokens& tokens, Json* json) {
  const std::vector<float> logits = session.logits({tokens});
  if (logits.size() == 1) {
    json->field("score", static_cast<double>(logits[0]));
    return format("%.6f  score\n", static_cast<double>(logits[0]));
  }
  std::vector<double> p = softmax(logits.data(), logits.size());
  for (size_t i = 0; session.options().multi_label && i < p.size(); i++) p[i] = 1 / (1 + std::exp(-double{logits[i]}));
  std::string lines;
  json->key("labels").open('[');
  for (const size_t i : largest(p, session.options().top > 0 ? static_cast<size_t>(session.options().top) : p.size())) {
    const std::string label = session.label(static_cast<int64_t>(i));
    json->open('{').field("label", label).field("probability", p[i]).close();
    lines += format("%.4f  %s\n", p[i], shown(label).c_str());
  }
  json->close();
  return lines;
}

std::string choose(const Session& session, const Texts& texts, Json* json) {
  if (texts.size() < 3) throw UsageError("a multiple choice model takes a question and at least two choices");
  std::vector<Tokens> rows;
  for (size_t i = 1; i < texts.size(); i++) {
    const std::string_view choice = texts[i];
    rows.push_back(session.tokenize_noting(texts[0], &choice));
  }
  const std::vector<float> logits = session.logits(rows);
  const std::vector<double> p = softmax(logits.data(), logits.size());
  std::string lines;
  json->key("choices").open('[');
  for (const size_t i : largest(p, session.options().top > 0 ? static_cast<size_t>(session.options().top) : p.size())) {
    json->open('{').field("choice", static_cast<int64_t>(i)).field("text", texts[i + 1]);
    json->field("probability", p[i]).close();
    lines += format("%.4f  %s\n", p[i], shown(texts[i + 1]).c_str());
  }
  json->close();
  return lines;
}

// A word, or neighbouring words of one kind. Scores are those of the first token of each word.
struct Span {
  std::string label;
  double score;
  size_t first, last;  // tokens
  int64_t words;
};

std::string without_prefix(const std::string& label) {
  return label.starts_with("B-") || label.starts_with("I-") ? label.substr(2) : label;
}

// As transformers' aggregation_strategy="first" has it.
std::vector<Span> join(const std::vector<Span>& words, const Tokens& t) {
  std::vector<Span> spans;
  for (const Span& word : words) {
    const std::string kind = without_prefix(word.label);
    const bool goes_on = !spans.empty() && spans.back().label == kind && !word.label.starts_with("B-") &&
                         t.types[spans.back().first] == t.types[word.first];
    if (goes_on) {
      spans.back().score += word.score, spans.back().last = word.last, spans.back().words++;
    } else {
      spans.push_back(word);
      spans.back().label = kind;
    }
  }
  for (Span& span : spans) span.score /= static_cast<double>(span.words);
  std::erase_if(spans, [](const Span& span) { return span.label == "O"; });
  return spans;
}

std::string list_spans(const std::vector<Span>& spans, const Texts& texts, const Tokens& t, const char* key,
                       Json* json) {
  std::string lines;
  json->key(key).open('[');
  for (const Span& span : spans) {
    const std::string text(slice(texts, t, span.first, span.last));
    json->open('{').field("label", span.label).field("score", span.score).field("text", text);
    json->field("begin", t.begin[span.first]).field("end", t.end[span.last]);
    if (texts.size() > 1) json->field("pair", t.types[span.first] == 1);
    json->close();
    lines += format("%.4f  %-12s  %s\n", span.score, shown(span.label).c_str(), shown(text).c_str());
  }
  json->close();
  return lines;
}

std::string label_words(const Session& session, const Texts& texts, const Tokens& tokens, Json* json) {
  const std::vector<float> logits = session.logits({tokens});
  const auto classes = static_cast<size_t>(session.info().num_labels);
  std::vector<Span> words;
  for (size_t i = 0; i < tokens.ids.size(); i++) {
    if (tokens.special(i)) continue;
    if (!words.empty() && words.back().last + 1 == i && session.continues(tokens.ids[i])) {
      words.back().last = i;
      continue;
    }
    const std::vector<double> p = softmax(logits.data() + i * classes, classes);
    const size_t best = largest(p, 1)[0];
    words.push_back({session.label(static_cast<int64_t>(best)), p[best], i, i, 1});
  }
  // Without an "outside" every word counts for itself, as with parts of speech.
  bool outside = false;
  for (size_t i = 0; i < classes; i++) outside = outside || session.label(static_cast<int64_t>(i)) == "O";
  const std::string of_words = list_spans(words, texts, tokens, "words", json);
  const std::string of_spans = list_spans(join(words, tokens), texts, tokens, "spans", json);
  return outside ? of_spans : of_words;
}

std::string fill_masks(const Session& session, const Tokens& tokens, Json* json) {
  const int32_t mask = session.require_token("[MASK]");
  std::vector<int32_t> places;
  for (int32_t i = 0; i < tokens.size(); i++) {
    if (tokens.ids[static_cast<size_t>(i)] == mask) places.push_back(i);
  }
  if (places.empty()) throw UsageError("the text has no [MASK] to fill");
  const std::vector<float> logits = session.logits({tokens}, places);
  const auto classes = static_cast<size_t>(session.info().num_labels);
  std::string lines;
  json->key("masks").open('[');
  for (size_t m = 0; m < places.size(); m++) {
    const std::vector<double> p = softmax(logits.data() + m * classes, classes);
    if (places.size() > 1) lines += format("[MASK] %zu\n", m + 1);
    json->open('[');
    for (const size_t i : largest(p, session.options().top > 0 ? static_cast<size_t>(session.options().top) : 5)) {
      const std::string text = session.token_text(static_cast<int32_t>(i));
      json->open('{').field("id", static_cast<int64_t>(i)).field("token", text).field("probability", p[i]).close();
      lines += format("%.4f  %s\n", p[i], shown(text).c_str());
    }
    json->close();
  }
  json->close();
  return lines;
}

std::string numbers(const float* values, size_t n, const char* name, Json* json) {
  double square = 0;
  json->key(name).open('[');
  for (size_t i = 0; i < n; i++) {
    square += double{values[i]} * double{values[i]};
    json->number(static_cast<double>(values[i]));
  }
  json->close();
  std::string line = format("%-7s norm %.5f:", name, std::sqrt(square));
  for (size_t i = 0; i < n && i < 6; i++) line += format(" %.5f", static_cast<double>(values[i]));
  return line + (n > 6 ? " ...\n" : "\n");
}

std::vector<float> mean(const std::vector<float>& hidden, size_t channels) {
  std::vector<double> sums(channels);
  for (size_t i = 0; i < hidden.size(); i++) sums[i % channels] += double{hidden[i]};
  std::vector<float> means(channels);
  for (size_t c = 0; c < channels; c++) {
    means[c] = static_cast<float>(sums[c] / (static_cast<double>(hidden.size()) / static_cast<double>(channels)));
  }
  return means;
}

std::string summarize(const Session& session, const Tokens& tokens, Json* json) {
  const auto channels = static_cast<size_t>(session.info().hidden_size);
  const std::vector<float> hidden = session.hidden_states(tokens);
  json->field("hidden_size", session.info().hidden_size);
  std::string lines = format("%d tokens, %d channels\n", tokens.size(), session.info().hidden_size);
  lines += numbers(hidden.data(), channels, "first", json);
  lines += numbers(mean(hidden, channels).data(), channels, "mean", json);
  if (session.info().has_pooler) lines += numbers(session.pooled(tokens).data(), channels, "pooled", json);
  return lines;
}

// As the model's authors make it.
std::string embedding(const Session& session, const Tokens& tokens) {
  const sbk_model_info& info = session.info();
  if (info.embedding_unsupported != nullptr) {
    throw std::runtime_error(std::string("the model's embeddings cannot be made here: ") + info.embedding_unsupported);
  }
  const auto channels = static_cast<size_t>(info.hidden_size);
  std::vector<float> vector = session.hidden_states(tokens);
  if (info.embedding_pooling == SBK_POOLING_MEAN) vector = mean(vector, channels);
  vector.resize(channels);  // otherwise that of the first token
  double square = 0;
  for (const float value : vector) square += double{value} * double{value};
  const double scale = info.embedding_normalize != 0 && square > 0 ? 1 / std::sqrt(square) : 1;
  Json json;
  json.open('[');
  for (const float value : vector) json.number(double{value} * scale);
  return json.close().str() + "\n";
}

}  // namespace

std::string answer(const Session& session, const Texts& texts) {
  const RunOptions& options = session.options();
  const sbk_head head = session.info().head;
  Json json;
  json.open('{').field("head", head_name(head));
  std::string lines;
  if (head == SBK_HEAD_MULTIPLE_CHOICE && !options.embedding) {
    lines = choose(session, texts, &json);
  } else if (head == SBK_HEAD_QUESTION_ANSWERING && !options.embedding) {
    lines = answer_question(session, texts, &json);
  } else {
    const Tokens tokens = tokenize_one_or_two(session, texts);
    if (options.embedding) return embedding(session, tokens);
    json.field("num_tokens", tokens.size()).field("truncated", tokens.truncated);
    if (options.tokens) lines = show_tokens(session, tokens, &json);
    switch (head) {
      case SBK_HEAD_SEQUENCE_CLASSIFICATION:
        lines += classify(session, tokens, &json);
        break;
      case SBK_HEAD_TOKEN_CLASSIFICATION:
        lines += label_words(session, texts, tokens, &json);
        break;
      case SBK_HEAD_MASKED_LM:
        lines += fill_masks(session, tokens, &json);
        break;
      default:
        lines += summarize(session, tokens, &json);
    }
  }
  return options.json ? json.close().str() + "\n" : lines;
}

}  // namespace sbk::tools
