// Fuzzes everything that reads a file: loads what the fuzzer gives and, if it loads, uses it. The first byte says what
// the rest is:
//
//   r   a .sbk file as it is
//   c   a .sbk file whose checksums are made right first: without that no fuzzer would get behind them
//   f   a folder: uint32 length of config.json, config.json, model.safetensors
//   t   a tokenizer beside a good model
//
//   fuzz_model_load CORPUS [RUNS]      replays the files of a folder, then RUNS random changes of them, always the same
//   fuzz_model_load --write FOLDER     makes the corpus
//
// With clang, libFuzzer takes the place of that main(); the sources are those of the library:
//
//   clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -DSBK_LIBFUZZER -DSBK_VERSION='""' -Icsrc -pthread
//     -o fuzz tests/cpp/capi/fuzz_model_load.cpp csrc/{runtime,ops,model,capi}/*.cpp csrc/isa/scalar.cpp -Itests/cpp
//   mkdir found && ./fuzz found tests/cpp/capi/corpus
#include <dirent.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "sbk_file.h"
#include "support/random.h"

using namespace test;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  static Folder folder, checkpoint, with_tokenizer(smallest_model(), true);
  static const std::string file = folder.file("model.sbk"), config = checkpoint.file("config.json"),
                           weights = checkpoint.file("model.safetensors"),
                           tokenizer = with_tokenizer.path() + "/tokenizer.sbk";
  if (size == 0) return 0;
  std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0]) {
    case 'r':
    case 'c':
      if (data[0] == 'c') correct(bytes, true);
      write_file(file, bytes);
      load_and_use(file, bytes.size() % 2 == 0);
      break;
    case 'f': {
      if (bytes.size() < 4) return 0;
      const std::size_t length = std::min<std::size_t>(get<uint32_t>(bytes, 0), bytes.size() - 4);
      write_file(config, bytes.substr(4, length));
      write_file(weights, bytes.substr(4 + length));
      load_and_use(checkpoint.path());
      break;
    }
    case 't':
      write_file(tokenizer, bytes);
      load_and_use(with_tokenizer.path());
      break;
    default:
      break;
  }
  return 0;
}

#ifndef SBK_LIBFUZZER
namespace {

void write_corpus(const std::string& folder) {
  const TinyModel tiny = smallest_model();
  TinyModel bert = tiny;
  bert.bert = true, bert.architecture = "BertForSequenceClassification";
  const auto write = [&](const char* name, const std::string& bytes) { write_file(folder + "/" + name, bytes); };
  const auto checkpoint = [](const TinyModel& model) {
    const std::string config = model.config();
    const auto length = static_cast<uint32_t>(config.size());
    return "f" + std::string(reinterpret_cast<const char*>(&length), sizeof length) + config + model.safetensors();
  };
  write("checkpoint-squeezebert", checkpoint(tiny));
  write("checkpoint-bert", checkpoint(bert));
  write("file-as-it-is", "r" + sbk_file(tiny, SBK_FLOAT32, "scalar"));
  write("file-float32", "c" + sbk_file(tiny, SBK_FLOAT32, "scalar"));
  write("file-int8-neondot", "c" + sbk_file(tiny, SBK_INT8, "neondot"));
  write("file-float16-neondot", "c" + sbk_file(bert, SBK_FLOAT16, "neondot"));
  write("file-bfloat16-avx512bf16", "c" + sbk_file(bert, SBK_BFLOAT16, "avx512bf16"));
  write("tokenizer", "t" + tiny_tokenizer());
}

// One to four changes, of the kinds that readers of files trip over.
std::string changed(const std::string& good, const std::string& other, Random& random) {
  std::string bytes = good;
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random.below(static_cast<int64_t>(n))); };
  for (int64_t changes = 1 + random.below(4); changes > 0 && bytes.size() > 16; changes--) {
    // Headers and tables are in front.
    const std::size_t at =
        1 + below(random.below(3) > 0 ? std::min<std::size_t>(bytes.size() - 9, 5000) : bytes.size() - 9);
    constexpr uint64_t values[] = {
        0, 1, 0x7f, 0xff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, uint64_t{1} << 62, ~uint64_t{0}};
    switch (random.below(7)) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ 1 << random.below(8));
        break;
      case 1:
        bytes[at] = static_cast<char>(random.bits());
        break;
      case 2:
        std::memcpy(bytes.data() + at, &values[below(std::size(values))], std::size_t{1} << random.below(4));
        break;
      case 3:  // a small change of a number
        put(bytes, at, static_cast<uint32_t>(get<uint32_t>(bytes, at) + static_cast<uint32_t>(random.below(129) - 64)));
        break;
      case 4:
        bytes.resize(at);
        break;
      case 5:
        bytes.insert(at, bytes.substr(1 + below(bytes.size() - 1), below(128)));
        break;
      default:
        bytes.replace(at, 8, other.substr(below(other.size()), 8));
        break;
    }
  }
  return bytes;
}

void feed(const std::string& bytes) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::strcmp(argv[1], "--write") == 0) {
    write_corpus(argv[2]);
    return 0;
  }
  DIR* folder = argc >= 2 ? opendir(argv[1]) : nullptr;
  if (folder == nullptr) {
    std::fprintf(stderr, "usage: %s CORPUS [RUNS] | --write FOLDER\n", argv[0]);
    return 2;
  }
  std::vector<std::string> names, corpus;
  while (const dirent* item = readdir(folder)) {
    if (item->d_name[0] != '.') names.push_back(std::string(argv[1]) + "/" + item->d_name);
  }
  closedir(folder);
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) corpus.push_back(read_file(name));
  for (const std::string& input : corpus) feed(input);
  const int64_t runs = argc > 2 ? std::atoll(argv[2]) : 5000;
  Random random(1);
  for (int64_t i = 0; i < runs && !corpus.empty(); i++) {
    const auto any = [&]() -> const std::string& {
      return corpus[static_cast<std::size_t>(random.below(static_cast<int64_t>(corpus.size())))];
    };
    const std::string input = changed(any(), any(), random);
    // What crashes is left behind, to be replayed.
    if (const char* keep = std::getenv("SBK_FUZZ_KEEP")) write_file(keep, input);
    feed(input);
  }
  std::printf("%zu inputs, %lld changes of them\n", corpus.size(), static_cast<long long>(runs));
  return corpus.empty() ? 1 : 0;
}
#endif
