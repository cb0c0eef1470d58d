// sbk-run: a .sbk model on texts, by its head, over the C interface alone.
#include <cstdio>
#include <cstdlib>

#include "tools/run_answers.h"

namespace {

using namespace sbk::tools;

constexpr const char* kUsage =
    "usage: sbk-run [options] MODEL TEXT [TEXT ...]\n"
    "\n"
    "MODEL is a .sbk file. What TEXTs are depends on the model's head:\n"
    "  sequence_classification  TEXT [PAIR]           labels and their probabilities; a score if there is one label\n"
    "  token_classification     TEXT [PAIR]           words or spans, their labels and scores\n"
    "  masked_lm                TEXT [PAIR]           the likeliest tokens for each [MASK]\n"
    "  multiple_choice          QUESTION CHOICE ...   probabilities of the choices\n"
    "  question_answering       QUESTION CONTEXT      the answer in the context, of any length\n"
    "  none                     TEXT [PAIR]           the size and the first values of the hidden states\n"
    "A TEXT that is '-' is read from the standard input.\n"
    "\n"
    "  --json          JSON instead of text, one line for each answer\n"
    "  --lines         one answer for each line of the standard input; a tab separates the TEXTs of a line\n"
    "  --top K         at most K results (masked_lm: 5, question_answering: 1, otherwise all)\n"
    "  --embedding     one vector, as a JSON array: pooled, normalized and cut as the exported checkpoint said;\n"
    "                  where it said nothing, the mean of the hidden states over all tokens\n"
    "  --tokens        show the tokens too: id, segment, bytes of the text, token (of one text or a pair)\n"
    "  --multi-label   sequence classification: labels are independent of one another (sigmoid, not softmax)\n"
    "  --window N      question answering: tokens in a window (384)\n"
    "  --stride N      question answering: tokens that neighbouring windows share (128; 0: none)\n"
    "  --max-answer N  question answering: tokens in an answer (15)\n"
    "  --head NAME     another head than the file says: none, or one of those above\n"
    "  --threads N     default: the fast cores\n"
    "  --isa TIER      slower kernels than the fastest of this CPU, as SBK_ISA=TIER\n"
    "  --verify        compare the checksums of all weights before use: the default below 200 MB\n"
    "  --no-verify     compare those of everything else only\n"
    "  --info          tell what the file holds; takes no TEXT\n"
    "  --version, --help\n"
    "Exit status: 0, 1 for failures, 2 for arguments that make no sense.\n";

// The next byte of the standard input, which may belong to a text of `size` bytes, or EOF.
int read_byte(size_t size) {
  const int c = std::getc(stdin);
  if (std::ferror(stdin)) throw std::runtime_error("cannot read the standard input");
  // One more than a text may have and the end of its line.
  if (c != EOF && size > SBK_MAX_TEXT_BYTES + 2) {
    throw std::runtime_error("a text of the standard input has more than " + std::to_string(SBK_MAX_TEXT_BYTES) +
                             " bytes");
  }
  return c;
}

// The next line of the standard input without its end; false behind the last.
bool read_line(std::string* line) {
  line->clear();
  int c;
  while ((c = read_byte(line->size())) != EOF && c != '\n') *line += static_cast<char>(c);
  if (line->ends_with('\r')) line->pop_back();
  return c != EOF || !line->empty();
}

// All of it, without the last line's end.
std::string read_text() {
  std::string text;
  for (int c; (c = read_byte(text.size())) != EOF;) text += static_cast<char>(c);
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  return text;
}

std::vector<std::string> split(const std::string& line) {
  std::vector<std::string> fields{""};
  for (const char c : line) {
    if (c == '\t') {
      fields.emplace_back();
    } else {
      fields.back() += c;
    }
  }
  return fields;
}

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

// A line that cannot be answered is told of, in its place, and the next one is answered.
void answer_lines(const Session& session) {
  const RunOptions& options = session.options();
  std::string line;
  int64_t failed = 0;
  for (int64_t number = 1; read_line(&line); number++) {
    std::string said;
    try {
      said = answer(session, split(line));
    } catch (const std::runtime_error& error) {
      failed++;
      std::fprintf(stderr, "sbk-run: error: line %lld: %s\n", static_cast<long long>(number),
                   shown(error.what()).c_str());
      if (options.json || options.embedding) said = Json().open('{').field("error", error.what()).close().str() + "\n";
    }
    if (!options.json && !options.embedding) print("> " + shown(line) + "\n");
    print(said);
    std::fflush(stdout);
  }
  if (failed > 0)
    throw std::runtime_error(std::to_string(failed) + (failed == 1 ? " line was" : " lines were") + " not answered");
}

void show_info(const Session& session) {
  const sbk_model_info& i = session.info();
  Json json;
  json.open('{').field("architecture", i.architecture).field("head", head_name(i.head));
  json.field("dtype", dtype_name(i.dtype)).field("tier", i.isa).field("num_layers", i.num_layers);
  json.field("hidden_size", i.hidden_size).field("intermediate_size", i.intermediate_size);
  json.field("num_heads", i.num_heads).field("vocab_size", i.vocab_size).field("max_length", i.max_length);
  json.field("has_pooler", i.has_pooler != 0).field("has_tokenizer", i.has_tokenizer != 0);
  json.field("mapped_bytes", i.mapped_bytes).field("allocated_bytes", i.allocated_bytes);
  json.field("repacked_bytes", i.repacked_bytes).key("labels").open('[');
  for (int32_t label = 0; sbk_model_label(session.model(), label) != nullptr && label < i.num_labels; label++) {
    json.text(sbk_model_label(session.model(), label));
  }
  print(json.close().close().str() + "\n");
}

void body(int argc, char** argv) {
  const Arguments arguments(argc, argv,
                            {{"--json", false},
                             {"--lines", false},
                             {"--top", true},
                             {"--embedding", false},
                             {"--tokens", false},
                             {"--multi-label", false},
                             {"--window", true},
                             {"--stride", true},
                             {"--max-answer", true},
                             {"--head", true},
                             {"--threads", true},
                             {"--isa", true},
                             {"--verify", false},
                             {"--no-verify", false},
                             {"--info", false},
                             {"--version", false},
                             {"--help", false}});
  if (arguments.has("--help")) return print(kUsage);
  if (arguments.has("--version")) return print(std::string("sbk-run ") + sbk_version() + "\n");

  RunOptions options;
  options.json = arguments.has("--json"), options.tokens = arguments.has("--tokens");
  options.embedding = arguments.has("--embedding"), options.multi_label = arguments.has("--multi-label");
  options.top = arguments.number("--top", 0, 1, 1 << 20);
  options.window = arguments.number("--window", options.window, 8, 1 << 20);
  options.stride = arguments.number("--stride", options.stride, 0, 1 << 20);
  if (arguments.has("--stride") && options.stride >= options.window) {
    throw UsageError("--stride " + std::to_string(options.stride) + " is not less than the " +
                     std::to_string(options.window) + " tokens of --window");
  }
  options.max_answer = arguments.number("--max-answer", options.max_answer, 1, 1 << 20);
  const auto threads = static_cast<int32_t>(arguments.number("--threads", 0, 1, 1024));
  sbk_load_options load{};
  load.head = head_named(arguments.text("--head", "default"));
  if (arguments.has("--verify") && arguments.has("--no-verify")) throw UsageError("--verify and --no-verify are given");
  load.verify = arguments.has("--verify") ? 1 : arguments.has("--no-verify") ? 0 : -1;
  if (arguments.has("--isa")) setenv("SBK_ISA", arguments.text("--isa", "").c_str(), 1);

  if (arguments.positional.empty()) throw UsageError("no MODEL is given (see --help)");
  Texts texts(arguments.positional.begin() + 1, arguments.positional.end());
  const bool lines = arguments.has("--lines"), info = arguments.has("--info");
  if (lines && !(texts.empty() || texts == Texts{"-"})) throw UsageError("--lines reads the standard input: no TEXT");
  if (info && !texts.empty()) throw UsageError("--info takes no TEXT");
  if (!lines && !info && texts.empty()) throw UsageError("no TEXT is given (see --help)");
  int64_t from_input = 0;
  for (const std::string& text : texts) from_input += text == "-";
  if (from_input > 1) throw UsageError("'-' is given more than once");

  if (sbk_active_isa() == nullptr) throw UsageError(sbk_last_error());
  ModelHandle model = load_model(arguments.positional[0], load);
  const Session session(std::move(model), make_context(threads), options);
  if (info) return show_info(session);
  if (lines) return answer_lines(session);
  for (std::string& text : texts) {
    if (text == "-") text = read_text();
  }
  print(answer(session, texts));
}

}  // namespace

int main(int argc, char** argv) { return run_main("sbk-run", body, argc, argv); }
