// Models of a few kilobytes, written by the tests themselves: config.json and model.safetensors with random weights, a
// tokenizer of eight tokens.
#pragma once
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "model/tokenizer_data.h"
#include "support/folder.h"
#include "support/random.h"

namespace test {

struct TinyModel {
  bool bert = false;
  std::string architecture = "SqueezeBertForTokenClassification";
  int hidden = 24, layers = 2, heads = 2, intermediate = 48, vocabulary = 37, positions = 16, labels = 3;
  int groups[6] = {2, 1, 4, 1, 2, 4};  // of query, key, value, post, intermediate, output; BERT has none
  std::string activation = "gelu";
  std::string more;  // members of config.json, each with a comma in front

  std::string config() const {
    std::string json = "{\"model_type\": \"" + std::string(bert ? "bert" : "squeezebert") +
                       "\", \"architectures\": [\"" + architecture + "\"], \"hidden_act\": \"" + activation + "\"";
    const auto add = [&](const char* key, int value) {
      json += ", \"" + std::string(key) + "\": " + std::to_string(value);
    };
    add("hidden_size", hidden), add("num_hidden_layers", layers), add("num_attention_heads", heads);
    add("intermediate_size", intermediate), add("vocab_size", vocabulary), add("max_position_embeddings", positions);
    add("type_vocab_size", 2), add("num_labels", labels);
    constexpr const char* names[] = {
        "q_groups", "k_groups", "v_groups", "post_attention_groups", "intermediate_groups", "output_groups"};
    for (int i = 0; i < 6 && !bert; i++) add(names[i], groups[i]);
    return json + more + "}";
  }

  // The checkpoint, with every tensor that any head needs.
  std::string safetensors(uint64_t seed = 1) const {
    Random random(seed);
    std::string header = "{", values;
    const auto add = [&](const std::string& name, int64_t rows, int64_t columns, float scale, float center = 0) {
      const std::size_t begin = values.size();
      for (int64_t i = 0; i < rows * columns; i++) {
        const float value = center + scale * random.uniform();
        values.append(reinterpret_cast<const char*>(&value), sizeof value);
      }
      header += (header.size() > 1 ? ", \"" : "\"") + name + "\": {\"dtype\": \"F32\", \"shape\": [" +
                std::to_string(rows) + (columns > 1 ? ", " + std::to_string(columns) : "") + "], \"data_offsets\": [" +
                std::to_string(begin) + ", " + std::to_string(values.size()) + "]}";
    };
    const auto conv = [&](const std::string& name, int64_t out, int64_t in) {
      add(name + ".weight", out, in, 0.3f), add(name + ".bias", out, 1, 0.1f);
    };
    const auto norm = [&](const std::string& name) {
      add(name + ".weight", hidden, 1, 0.2f, 1), add(name + ".bias", hidden, 1, 0.1f);
    };
    const std::string prefix = bert ? "bert." : "transformer.";
    add(prefix + "embeddings.word_embeddings.weight", vocabulary, hidden, 1);
    add(prefix + "embeddings.position_embeddings.weight", positions, hidden, 1);
    add(prefix + "embeddings.token_type_embeddings.weight", 2, hidden, 1);
    norm(prefix + "embeddings.LayerNorm");
    const auto group = [&](int i) { return bert ? 1 : groups[i]; };
    for (int i = 0; i < layers; i++) {
      const std::string layer = prefix + (bert ? "encoder.layer." : "encoder.layers.") + std::to_string(i) + ".";
      const std::string attention = layer + (bert ? "attention.self." : "attention.");
      conv(attention + "query", hidden, hidden / group(0));
      conv(attention + "key", hidden, hidden / group(1));
      conv(attention + "value", hidden, hidden / group(2));
      conv(layer + (bert ? "attention.output.dense" : "post_attention.conv1d"), hidden, hidden / group(3));
      norm(layer + (bert ? "attention.output.LayerNorm" : "post_attention.layernorm"));
      conv(layer + (bert ? "intermediate.dense" : "intermediate.conv1d"), intermediate, hidden / group(4));
      conv(layer + (bert ? "output.dense" : "output.conv1d"), hidden, intermediate / group(5));
      norm(layer + (bert ? "output.LayerNorm" : "output.layernorm"));
    }
    conv(prefix + "pooler.dense", hidden, hidden);
    conv("cls.predictions.transform.dense", hidden, hidden);
    norm("cls.predictions.transform.LayerNorm");
    add("cls.predictions.bias", vocabulary, 1, 0.1f);
    const bool one = architecture.ends_with("ForMultipleChoice");
    conv("classifier", one ? 1 : labels, hidden);
    conv("qa_outputs", 2, hidden);
    header += "}";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    const uint64_t length = header.size();
    return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + values;
  }
};

// A tokenizer whose words are the tokens below; everything is one letter for it but spaces.
inline std::string tiny_tokenizer() {
  using namespace sbk;
  const std::vector<std::string> tokens = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "ab", "##c"};
  std::string data(sizeof(TokenizerHeader), '\0');
  TokenizerHeader header{};
  const auto add = [&](auto& section, const auto& elements) {
    data.resize((data.size() + 7) / 8 * 8, '\0');
    section.offset = static_cast<uint32_t>(data.size()), section.count = static_cast<uint32_t>(elements.size());
    data.append(reinterpret_cast<const char*>(elements.data()), elements.size() * sizeof elements[0]);
  };
  add(header.page_index, std::vector<uint16_t>(kCodePoints / kPage, 0));
  std::vector<uint16_t> page(kPage, 0);
  page[' '] = 1;
  add(header.pages, page);
  std::vector<Record> records(2);
  std::memset(records.data(), 0, records.size() * sizeof(Record));
  for (Record& r : records) r.kind = Kind::shift, r.count = 1;
  records[1].flags = kSpace;
  add(header.records, records);
  add(header.elements, std::vector<uint32_t>{'a'});
  std::string text;
  std::vector<uint32_t> offsets{0};
  for (const std::string& token : tokens) text += token, offsets.push_back(static_cast<uint32_t>(text.size()));
  add(header.token_offsets, offsets);
  add(header.text, text);
  header.continuing = header.decoded = {offsets[7], 2};

  // Breadth first: a node is the prefix that leads to it.
  struct Trie {
    std::vector<uint32_t> first, value;
    std::vector<uint8_t> label;
  };
  const auto trie = [](const std::vector<std::pair<std::string, uint32_t>>& words) {
    Trie t;
    std::vector<std::string> nodes{""};
    t.label.push_back(0);
    for (std::size_t i = 0; i < nodes.size(); i++) {
      uint32_t value = kNone;
      t.first.push_back(static_cast<uint32_t>(nodes.size()));
      for (int c = 0; c < 256; c++) {
        const std::string longer = nodes[i] + static_cast<char>(c);
        for (const auto& [word, number] : words) {
          if (!word.starts_with(longer)) continue;
          nodes.push_back(longer), t.label.push_back(static_cast<uint8_t>(c));
          break;
        }
      }
      for (const auto& [word, number] : words) value = word == nodes[i] && !word.empty() ? number : value;
      t.value.push_back(value);
    }
    t.first.push_back(static_cast<uint32_t>(nodes.size()));
    return t;
  };
  const auto add_trie = [&](TrieSections& sections, const Trie& t) {
    add(sections.first, t.first), add(sections.value, t.value), add(sections.label, t.label);
  };
  std::vector<std::pair<std::string, uint32_t>> words, special;
  std::vector<Added> added;
  for (uint32_t i = 0; i < tokens.size(); i++) {
    words.emplace_back(tokens[i], i);
    if (tokens[i][0] != '[') continue;
    special.emplace_back(tokens[i], static_cast<uint32_t>(added.size()));
    added.push_back({i, kSpecial, offsets[i], static_cast<uint32_t>(tokens[i].size())});
  }
  add_trie(header.vocabulary, trie(words));
  add(header.added, added);
  add_trie(header.raw, trie(special));
  add_trie(header.normalized, trie({}));
  std::memcpy(header.magic, "SBKT", 4);
  header.version = 1, header.bytes = data.size(), header.max_word = 100;
  header.unknown = 1, header.cls = 2, header.sep = 3, header.pad = 0, header.mask = 4;
  std::memcpy(data.data(), &header, sizeof header);
  return data;
}

// A folder, with a model if one is given.
class Folder : public TemporaryFolder {
 public:
  Folder() = default;
  explicit Folder(const TinyModel& model, bool with_tokenizer = false) {
    write("config.json", model.config());
    write("model.safetensors", model.safetensors());
    if (with_tokenizer) write("tokenizer.sbk", tiny_tokenizer());
  }
};

}  // namespace test
