// sbk-run: question answering, in windows over the context.
#include <algorithm>
#include <cmath>
#include <compare>
#include <map>
#include <set>

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

// The best answers so far, one for each place, the best first.
class BestAnswers {
 public:
  explicit BestAnswers(size_t most) : most_(most) {}

  bool wants(double score) const { return ranked_.size() < most_ || score > ranked_.begin()->first; }

  void add(const Answer& answer) {
    const Place place{answer.begin, answer.end};
    if (const auto known = scores_.find(place); known != scores_.end()) {
      if (known->second >= answer.score) return;
      ranked_.erase({known->second, place});
    }
    scores_[place] = answer.score;
    ranked_.emplace(answer.score, place);
    if (ranked_.size() <= most_) return;
    scores_.erase(ranked_.begin()->second);
    ranked_.erase(ranked_.begin());
  }

  std::vector<Answer> ranked() const {
    std::vector<Answer> answers;
    for (auto item = ranked_.rbegin(); item != ranked_.rend(); ++item) {
      answers.push_back({item->first, item->second.begin, item->second.end});
    }
    return answers;
  }

 private:
  struct Place {
    size_t begin, end;
    // Of equal scores the first place in the text is the best one.
    auto operator<=>(const Place& other) const {
      return begin != other.begin ? other.begin <=> begin : other.end <=> end;
    }
    bool operator==(const Place&) const = default;
  };

  size_t most_;
  std::map<Place, double> scores_;
  std::set<std::pair<double, Place>> ranked_;  // the worst first
};

void search(const Session& session, const Window& window, BestAnswers* answers) {
  const std::vector<float> logits = session.logits({window.tokens});
  std::vector<float> starts{logits[0]}, ends{logits[1]};  // [CLS]: no answer
  for (size_t i = window.first; i < window.last; i++)
    starts.push_back(logits[2 * i]), ends.push_back(logits[2 * i + 1]);
  const std::vector<double> start = softmax(starts.data(), starts.size()), end = softmax(ends.data(), ends.size());
  const size_t n = window.last - window.first, longest = static_cast<size_t>(session.options().max_answer);
  for (size_t s = 0; s < n; s++) {
    for (size_t e = s; e < std::min(n, s + longest); e++) {
      const double score = start[s + 1] * end[e + 1];
      if (std::isnan(score)) throw std::runtime_error("the model gives no numbers for this text");
      if (!answers->wants(score)) continue;
      size_t from = window.first + s, to = window.first + e;
      while (from > window.first && window.continues[from]) from--;
      while (to + 1 < window.last && window.continues[to + 1]) to++;
      const auto& t = window.tokens;
      answers->add(
          {score, window.offset + static_cast<size_t>(t.begin[from]), window.offset + static_cast<size_t>(t.end[to])});
    }
  }
}

// Bytes from where the window begins to where the next one does, which has `stride` of its tokens again and begins with
// a word. At least 1: of one character there may be more tokens than a window has. `part`: [CLS], the window's tokens
// of the context, the token behind them, [SEP].
size_t advance(const Session& session, std::string_view context, const Tokens& part, size_t stride) {
  const size_t behind = part.ids.size() - 2, wanted = behind - stride;
  const auto moves = [&](size_t i) { return part.begin[i] > part.begin[1]; };
  const auto begins_word = [&](size_t i) { return moves(i) && !session.continues(part.ids[i]); };
  size_t next = wanted;
  while (next > 1 && !begins_word(next)) next--;
  if (next <= 1) {  // a word that is longer than all before it
    for (next = wanted; next <= behind && !begins_word(next);) next++;
    for (next = next <= behind ? next : wanted; next <= behind && !moves(next);) next++;
  }
  if (next <= behind) return static_cast<size_t>(part.begin[next]);
  size_t bytes = std::max<size_t>(1, static_cast<size_t>(part.end[behind]));
  while (bytes < context.size() && (static_cast<unsigned char>(context[bytes]) & 0xC0) == 0x80) bytes++;
  return bytes;
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
  // Neighbours that would share all of a window share half of it.
  const auto stride = static_cast<size_t>(options.stride < room ? options.stride : room / 2);

  BestAnswers best(options.top > 0 ? static_cast<size_t>(options.top) : 1);
  int64_t windows = 0;
  for (size_t offset = 0; offset < context.size();) {
    const std::string_view rest = context.substr(offset);
    // With the token behind the window, which tells where the next one may begin.
    const Tokens part = session.tokenize(rest, nullptr, static_cast<int32_t>(room + 3));
    const size_t found = part.ids.size() - 2, taken = std::min(found, static_cast<size_t>(room));
    if (found == 0) break;  // nothing but white space
    Window window{question, question.ids.size(), question.ids.size() + taken, offset, {}};
    Tokens& all = window.tokens;
    const auto append = [&](auto* to, const auto& from) {
      to->insert(to->end(), from.begin() + 1, from.begin() + 1 + static_cast<int64_t>(taken));
      to->push_back(from.back());
    };
    append(&all.ids, part.ids), append(&all.begin, part.begin), append(&all.end, part.end);
    all.types.resize(all.ids.size(), 1);
    for (const int32_t id : all.ids) window.continues.push_back(session.continues(id));
    search(session, window, &best);
    windows++;
    if (found == taken) break;
    offset += advance(session, rest, part, stride);
  }
  if (windows == 0) throw std::runtime_error("the context has no tokens");

  std::string lines;
  json->field("windows", windows).key("answers").open('[');
  for (const Answer& answer : best.ranked()) {
    const std::string text(context.substr(answer.begin, answer.end - answer.begin));
    json->open('{').field("answer", text).field("score", answer.score);
    json->field("begin", static_cast<int64_t>(answer.begin)).field("end", static_cast<int64_t>(answer.end)).close();
    lines += format("%.4f  %s\n", answer.score, shown(text).c_str());
  }
  json->close();
  return lines;
}

}  // namespace sbk::tools
