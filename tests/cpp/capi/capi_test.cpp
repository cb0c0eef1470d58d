// The C interface: what each function refuses and with which words, structures of other versions, loading and saving.
#include "include/squeezebert_kernels.h"

#include <cstring>
#include <thread>

#include "capi_case.h"

using namespace test;

namespace {

struct HeadCase {
  const char* suffix;
  sbk_head head;
};
constexpr HeadCase kHeads[] = {{"Model", SBK_HEAD_NONE},
                               {"ForMaskedLM", SBK_HEAD_MASKED_LM},
                               {"ForSequenceClassification", SBK_HEAD_SEQUENCE_CLASSIFICATION},
                               {"ForMultipleChoice", SBK_HEAD_MULTIPLE_CHOICE},
                               {"ForTokenClassification", SBK_HEAD_TOKEN_CLASSIFICATION},
                               {"ForQuestionAnswering", SBK_HEAD_QUESTION_ANSWERING}};
constexpr sbk_dtype kDtypes[] = {SBK_FLOAT32, SBK_BFLOAT16, SBK_INT8, SBK_FLOAT16};

// A good call of sbk_run, to be spoilt.
struct Call {
  Random random{3};
  const sbk_model* model;
  ContextHandle context = make_context(2);
  Batch batch;
  Outputs outputs;
  sbk_input in;
  sbk_output out;

  explicit Call(const sbk_model* m, Padding padding = Padding::none)
      : model(m),
        batch(random, info_of(m), 2, 5, padding),
        outputs(info_of(m), batch),
        in(batch.input()),
        out(outputs.output()) {}

  // `spoil`(call) makes it bad: refused with `words`, nothing written.
  template <class F>
  void refuses(sbk_status status, const std::string& words, const F& spoil) {
    spoil(*this);
    expect(sbk_run(model, context, &in, &out), status, words);
    CHECK(outputs.untouched());
    in = batch.input(), out = outputs.output();
  }
};

}  // namespace

TEST(the_tier_is_chosen) { choose_tier(table); }

TEST(version_status_names_and_tiers) {
  CHECK_EQ(std::string(sbk_version()), SBK_VERSION);
  CHECK_EQ(std::string(sbk_status_name(SBK_BUSY)), "SBK_BUSY");
  CHECK_EQ(std::string(sbk_status_name(static_cast<sbk_status>(99))), "unknown status");
  CHECK_EQ(std::string(sbk_isa_name(0)), "scalar");
  CHECK(sbk_isa_name(-1) == nullptr);
  CHECK(sbk_isa_name(1000) == nullptr);
  int32_t cpus[2] = {-1, -1};
  const int32_t count = sbk_big_cores(cpus, 1);
  CHECK(count >= 1);
  CHECK(cpus[0] >= 0);
  CHECK_EQ(cpus[1], -1);
  CHECK_EQ(sbk_big_cores(nullptr, 0), count);
  CHECK_EQ(sbk_big_cores(cpus, -5), count);
}

TEST(null_handles_are_refused_or_ignored) {
  sbk_model_free(nullptr), sbk_context_free(nullptr), sbk_weight_free(nullptr);
  CHECK_EQ(sbk_context_threads(nullptr), 0);
  CHECK(sbk_model_label(nullptr, 0) == nullptr);
  CHECK_EQ(sbk_token_id(nullptr, "a"), -1);
  sbk_model* model = nullptr;
  expect(sbk_model_load(nullptr, nullptr, &model), SBK_INVALID_ARGUMENT, "path is NULL");
  expect(sbk_model_load("x", nullptr, nullptr), SBK_INVALID_ARGUMENT, "model is NULL");
  expect(sbk_model_save(nullptr, "x"), SBK_INVALID_ARGUMENT, "model is NULL");
  expect(sbk_context_create(nullptr, nullptr), SBK_INVALID_ARGUMENT, "context is NULL");
  sbk_model_info info{};
  info.size = sizeof info;
  expect(sbk_model_get_info(nullptr, &info), SBK_INVALID_ARGUMENT, "model is NULL");
  std::size_t bytes = 0;
  expect(sbk_workspace_bytes(nullptr, 1, 1, 1, &bytes), SBK_INVALID_ARGUMENT, "model is NULL");
  expect(sbk_run(nullptr, nullptr, nullptr, nullptr), SBK_INVALID_ARGUMENT, "model is NULL");
}

TEST(errors_belong_to_threads) {
  sbk_model* model = nullptr;
  expect(sbk_model_load(nullptr, nullptr, &model), SBK_INVALID_ARGUMENT, "path");
  std::thread([] { CHECK_EQ(std::string(sbk_last_error()), ""); }).join();
  expect(sbk_context_create(nullptr, nullptr), SBK_INVALID_ARGUMENT, "context");
}

TEST(loading_refuses) {
  Folder folder{TinyModel{}};
  ModelHandle model;
  sbk_load_options options{};
  const auto load_with = [&](const auto& change) {
    options = {};
    options.size = sizeof options;
    change(options);
    return sbk_model_load(folder.path().c_str(), &options, model.out());
  };
  expect(load_with([](auto& o) { o.dtype = static_cast<sbk_dtype>(9); }), SBK_INVALID_ARGUMENT, "options->dtype=9");
  expect(load_with([](auto& o) { o.head = static_cast<sbk_head>(-1); }), SBK_INVALID_ARGUMENT, "options->head=-1");
  expect(load_with([](auto& o) { o.isa = "sse9"; }), SBK_INVALID_ARGUMENT, "options->isa='sse9' is none of scalar");
  expect(load_with([](auto& o) { o.size = 0; }), SBK_INVALID_ARGUMENT, "options->size is 0");
  expect(load_with([](auto& o) { o.size = 1 << 20; }), SBK_INVALID_ARGUMENT, "options->size");
  expect(load_with([](auto& o) { o.size = sizeof o - 1; }), SBK_INVALID_ARGUMENT, "options->size");
  expect(sbk_model_load("/no/such/file.sbk", nullptr, model.out()), SBK_IO_ERROR, "/no/such/file.sbk");
  expect(sbk_model_load("/dev/null", nullptr, model.out()), SBK_IO_ERROR, "not a regular file");
  const Folder empty;
  expect(sbk_model_load(empty.path().c_str(), nullptr, model.out()), SBK_IO_ERROR, "config.json");
  Folder without_weights;
  without_weights.write("config.json", TinyModel{}.config());
  expect(sbk_model_load(without_weights.path().c_str(), nullptr, model.out()), SBK_IO_ERROR, "model.safetensors");
  CHECK(model == nullptr);
  expect(load_with([](auto& o) { o.size = offsetof(sbk_load_options, isa); }), SBK_OK);  // an older caller's
}

TEST(configurations_are_checked) {
  const auto refused = [](sbk_status status, const std::string& words, const auto& change) {
    TinyModel tiny;
    change(tiny);
    Folder folder{tiny};
    ModelHandle model;
    expect(sbk_model_load(folder.path().c_str(), nullptr, model.out()), status, words);
  };
  refused(SBK_UNSUPPORTED, "model_type 'gpt2'", [](auto& m) { m.more = ", \"model_type\": \"gpt2\""; });
  refused(SBK_UNSUPPORTED, "hidden_act 'silu'", [](auto& m) { m.activation = "silu"; });
  refused(SBK_BAD_FILE, "num_attention_heads=5", [](auto& m) { m.heads = 5; });
  refused(SBK_BAD_FILE, "q_groups=7", [](auto& m) { m.more = ", \"q_groups\": 7"; });
  refused(SBK_BAD_FILE, "hidden_size", [](auto& m) { m.more = ", \"hidden_size\": 2147483647"; });
  refused(SBK_BAD_FILE, "layer_norm_eps", [](auto& m) { m.more = ", \"layer_norm_eps\": 2"; });
  refused(SBK_BAD_FILE, "id2label", [](auto& m) { m.more = ", \"id2label\": {\"0\": \"a\", \"2\": \"b\"}"; });
  refused(SBK_BAD_FILE, "not valid JSON", [](auto& m) { m.more = ", oops"; });
  refused(SBK_BAD_FILE, "is missing", [](auto& m) { m.more = ", \"num_hidden_layers\": 3"; });
  refused(SBK_BAD_FILE, "should be [", [](auto& m) { m.more = ", \"vocab_size\": 38"; });
  refused(SBK_UNSUPPORTED, "is_decoder", [](auto& m) { m.more = ", \"is_decoder\": true"; });
  refused(SBK_UNSUPPORTED, "embedding_size", [](auto& m) { m.more = ", \"embedding_size\": 12"; });
}

TEST(structures_of_other_versions) {
  Folder folder{TinyModel{}};
  const ModelHandle model = load(folder.path());
  Call call(model);
  // A later caller's, longer: fine as long as what is new is not used.
  struct Longer {
    sbk_input in;
    int64_t more[4];
  } longer{call.in, {}};
  longer.in.size = sizeof longer;
  expect(sbk_run(model, call.context, &longer.in, &call.out), SBK_OK);
  const Outputs first = call.outputs;
  longer.more[2] = 1;
  expect(sbk_run(model, call.context, &longer.in, &call.out), SBK_UNSUPPORTED, "input uses members");
  // An earlier one's, shorter: what lies behind is not read.
  call.in.size = offsetof(sbk_input, lengths);
  call.in.lengths = reinterpret_cast<const int32_t*>(1);
  expect(sbk_run(model, call.context, &call.in, &call.out), SBK_OK);
  CHECK(call.outputs == first);
  call.in = call.batch.input();
  for (const std::size_t size : {0, 7, 13, 20, 4097}) {
    call.in.size = size;
    expect(sbk_run(model, call.context, &call.in, &call.out), SBK_INVALID_ARGUMENT, "input->size");
  }
  // What is filled in may hold anything before; later members become 0.
  struct LongerInfo {
    sbk_model_info info;
    int64_t more[2];
  } info;
  std::memset(static_cast<void*>(&info), 0x5a, sizeof info);
  info.info.size = sizeof info;
  expect(sbk_model_get_info(model, &info.info), SBK_OK);
  CHECK_EQ(info.info.size, sizeof info);
  CHECK_EQ(info.info.hidden_size, 24);
  CHECK(info.more[0] == 0 && info.more[1] == 0);
  std::memset(static_cast<void*>(&info), 0x5a, sizeof info);
  info.info.size = offsetof(sbk_model_info, num_labels);
  expect(sbk_model_get_info(model, &info.info), SBK_OK);
  CHECK_EQ(info.info.max_length, 16);
  CHECK_EQ(info.info.num_labels, 0x5a5a5a5a);
}

TEST(contexts_refuse) {
  ContextHandle context;
  const auto create = [&](const auto& change) {
    sbk_context_options options{};
    options.size = sizeof options;
    change(options);
    return sbk_context_create(&options, context.out());
  };
  const auto hook = [](void*, int64_t n, sbk_task task, void* arg) { task(arg, 0, n); };
  expect(create([](auto& o) { o.threads = -1; }), SBK_INVALID_ARGUMENT, "options->threads=-1");
  expect(create([](auto& o) { o.threads = 5000; }), SBK_INVALID_ARGUMENT, "options->threads=5000");
  expect(create([&](auto& o) { o.parallel_for = hook; }), SBK_INVALID_ARGUMENT, "options->threads is 0");
  expect(create([&](auto& o) { o.pool = &o; }), SBK_INVALID_ARGUMENT, "options->pool");
  expect(create([&](auto& o) { o.workspace_bytes = 8; }), SBK_INVALID_ARGUMENT, "options->workspace_bytes=8");
  CHECK(context == nullptr);
  expect(sbk_context_create(nullptr, context.out()), SBK_OK);
  CHECK(sbk_context_threads(context) >= 1);
  expect(create([](auto& o) { o.threads = 3, o.pin = 1; }), SBK_OK);
}

TEST(runs_refuse) {
  Folder folder{TinyModel{}};
  const ModelHandle model = load(folder.path());
  Call call(model);
  const auto bad = [&](const std::string& words, const auto& spoil) {
    call.refuses(SBK_INVALID_ARGUMENT, words, spoil);
  };
  bad("input->batch=0", [](Call& c) { c.in.batch = 0; });
  bad("input->batch=-3", [](Call& c) { c.in.batch = -3; });
  bad("input->length=0", [](Call& c) { c.in.length = 0; });
  bad("input->length=17", [](Call& c) { c.in.length = 17; });
  bad("input->token_ids is NULL", [](Call& c) { c.in.token_ids = nullptr; });
  std::vector<int32_t> ids = call.batch.ids, types = call.batch.types;
  ids[3] = 37;
  bad("input->token_ids[3]=37", [&](Call& c) { c.in.token_ids = ids.data(); });
  ids[3] = -1;
  bad("input->token_ids[3]=-1", [&](Call& c) { c.in.token_ids = ids.data(); });
  types[9] = 2;
  bad("input->token_type_ids[9]=2", [&](Call& c) { c.in.token_type_ids = types.data(); });
  const std::vector<int32_t> lengths[] = {{5, 0}, {6, 1}},
                             mask[] = {{1, 1, 1, 1, 1, 0, 0, 0, 0, 0}, {1, 2, 0, 0, 0, 1, 0, 0, 0, 0}};
  bad("input->lengths[1]=0", [&](Call& c) { c.in.lengths = lengths[0].data(); });
  bad("input->lengths[0]=6", [&](Call& c) { c.in.lengths = lengths[1].data(); });
  bad("no 1 for sequence 1", [&](Call& c) { c.in.attention_mask = mask[0].data(); });
  bad("input->attention_mask[1]=2", [&](Call& c) { c.in.attention_mask = mask[1].data(); });
  bad("both given", [&](Call& c) { c.in.attention_mask = mask[0].data(), c.in.lengths = lengths[0].data(); });
  const std::vector<int32_t> tokens = {0, 10};
  bad("input->logit_tokens[1]=10", [&](Call& c) { c.in.logit_tokens = tokens.data(), c.in.num_logit_tokens = 2; });
  bad("input->num_logit_tokens=11", [&](Call& c) { c.in.logit_tokens = tokens.data(), c.in.num_logit_tokens = 11; });
  bad("input->num_logit_tokens=-1", [&](Call& c) { c.in.logit_tokens = tokens.data(), c.in.num_logit_tokens = -1; });
  bad("input->num_logit_tokens=2", [&](Call& c) { c.in.num_logit_tokens = 2; });
  bad("output->hidden_states_size=239", [](Call& c) { c.out.hidden_states_size--; });
  bad("output->pooled_size=47", [](Call& c) { c.out.pooled_size--; });
  bad("output->logits_size=29", [](Call& c) { c.out.logits_size--; });
  expect(sbk_run(model, nullptr, &call.in, &call.out), SBK_INVALID_ARGUMENT, "context is NULL");
  expect(sbk_run(model, call.context, nullptr, &call.out), SBK_INVALID_ARGUMENT, "input is NULL");
  expect(sbk_run(model, call.context, &call.in, nullptr), SBK_INVALID_ARGUMENT, "output is NULL");
  const ModelHandle encoder = load(folder.path(), SBK_DTYPE_DEFAULT, SBK_HEAD_NONE);
  expect(sbk_run(encoder, call.context, &call.in, &call.out), SBK_UNSUPPORTED, "no head");
  std::size_t bytes = 0;
  expect(sbk_workspace_bytes(model, 1, 17, 1, &bytes), SBK_INVALID_ARGUMENT, "length=17");
  expect(sbk_workspace_bytes(model, 0, 1, 1, &bytes), SBK_INVALID_ARGUMENT, "batch=0");
  expect(sbk_workspace_bytes(model, 1, 1, 0, &bytes), SBK_INVALID_ARGUMENT, "threads=0");
  expect(sbk_workspace_bytes(model, 1, 1, 1, nullptr), SBK_INVALID_ARGUMENT, "bytes is NULL");
  expect(sbk_run(model, call.context, &call.in, &call.out), SBK_OK);
  CHECK(call.outputs.finite());
}

TEST(only_some_outputs) {
  Folder folder{TinyModel{}};
  const ModelHandle model = load(folder.path());
  Call call(model);
  expect(sbk_run(model, call.context, &call.in, &call.out), SBK_OK);
  const Outputs all = call.outputs;
  sbk_output none{};
  none.size = sizeof none;
  expect(sbk_run(model, call.context, &call.in, &none), SBK_OK);
  call.batch.logit_tokens = {7, 0, 7};
  Outputs some(info_of(model), call.batch);
  call.in = call.batch.input(), call.out = some.output();
  call.out.hidden_states = nullptr, call.out.pooled = nullptr;
  expect(sbk_run(model, call.context, &call.in, &call.out), SBK_OK);
  for (std::size_t i = 0; i < 3; i++) {
    const std::size_t token = static_cast<std::size_t>(call.batch.logit_tokens[i]);
    CHECK(std::memcmp(&some.logits[i * 3], &all.logits[token * 3], 3 * sizeof(float)) == 0);
  }
}

TEST(every_head_and_dtype_is_saved_and_loaded) {
  const std::string other = std::string(table.isa) == "scalar" ? "neondot" : "scalar";
  for (const bool bert : {false, true}) {
    for (const HeadCase& head : kHeads) {
      TinyModel tiny;
      tiny.bert = bert, tiny.architecture = std::string(bert ? "Bert" : "SqueezeBert") + head.suffix;
      Folder folder{tiny, true};
      for (const sbk_dtype dtype : kDtypes) {
        const Context where([&] { return text(tiny.architecture, " dtype=", dtype); });
        const ModelHandle model = load(folder.path(), dtype);
        const sbk_model_info info = info_of(model);
        CHECK_EQ(info.head, head.head);
        CHECK_EQ(info.dtype, dtype);
        CHECK_EQ(info.has_tokenizer, 1);
        CHECK_EQ(std::string(info.isa), table.isa);
        Random random(5);
        const ContextHandle context = make_context(2);
        const Batch batch(random, info, 3, 7, Padding::lengths);
        const Outputs fresh = run(model, context, batch);
        CHECK(fresh.finite());
        const std::string path = folder.file("saved.sbk");
        expect(sbk_model_save(model, path.c_str()), SBK_OK);
        const ModelHandle saved = load(path);
        CHECK(run(saved, context, batch) == fresh);
        CHECK_EQ(info_of(saved).repacked_bytes, 0);
        // Packed for another tier, it is packed again here: the same values.
        const ModelHandle foreign = load(folder.path(), dtype, SBK_HEAD_DEFAULT, other.c_str());
        expect(sbk_model_save(foreign, path.c_str()), SBK_OK);
        const ModelHandle repacked = load(path);
        CHECK(run(repacked, context, batch) == fresh);
        CHECK(info_of(repacked).repacked_bytes > 0);
        sbk_load_options options{};
        options.size = sizeof options, options.dtype = dtype == SBK_INT8 ? SBK_FLOAT32 : SBK_INT8;
        ModelHandle none;
        expect(sbk_model_load(path.c_str(), &options, none.out()), SBK_UNSUPPORTED, "its weights are");
      }
    }
  }
}

TEST(a_model_without_its_head_can_be_saved) {
  Folder folder{TinyModel{}};
  const ModelHandle encoder = load(folder.path(), SBK_INT8, SBK_HEAD_NONE);
  const std::string path = folder.file("encoder.sbk");
  expect(sbk_model_save(encoder, path.c_str()), SBK_OK);
  const ModelHandle saved = load(path);
  CHECK_EQ(info_of(saved).head, SBK_HEAD_NONE);
  expect(sbk_model_save(saved, path.c_str()), SBK_OK);  // over the file that it is mapped from
  CHECK_EQ(info_of(load(path)).head, SBK_HEAD_NONE);
  const ModelHandle other = load(folder.path(), SBK_FLOAT32, SBK_HEAD_QUESTION_ANSWERING);
  expect(sbk_model_save(other, path.c_str()), SBK_OK);
  CHECK_EQ(info_of(load(path)).head, SBK_HEAD_QUESTION_ANSWERING);
}

TEST(saving_refuses) {
  Folder folder{TinyModel{}};
  const ModelHandle model = load(folder.path());
  expect(sbk_model_save(model, nullptr), SBK_INVALID_ARGUMENT, "path is NULL");
  expect(sbk_model_save(model, "/no/such/folder/x.sbk"), SBK_IO_ERROR, "/no/such/folder");
  expect(sbk_model_save(model, folder.path().c_str()), SBK_IO_ERROR, folder.path());
}

TEST(labels) {
  TinyModel tiny;
  tiny.more = ", \"id2label\": {\"0\": \"no\", \"1\": \"y\\u00e9s\"}";
  tiny.labels = 2;
  Folder folder{tiny};
  const ModelHandle model = load(folder.path());
  CHECK_EQ(std::string(sbk_model_label(model, 1)), "y\xc3\xa9s");
  CHECK(sbk_model_label(model, 2) == nullptr);
  CHECK(sbk_model_label(model, -1) == nullptr);
}

TEST(text_and_tokens) {
  Folder folder{TinyModel{}, true};
  const ModelHandle model = load(folder.path());
  sbk_text in{};
  in.size = sizeof in, in.text = "abc a", in.text_bytes = 5;
  int32_t ids[8] = {}, types[8] = {}, count = 0;
  int64_t begin[8] = {}, end[8] = {};
  sbk_tokens out{sizeof out, 8, ids, types, begin, end};
  expect(sbk_tokenize(model, &in, &out, &count), SBK_OK);
  CHECK_EQ(count, 5);
  constexpr int32_t want[] = {2, 6, 7, 5, 3};
  for (int i = 0; i < 5; i++) CHECK_EQ(ids[i], want[i]);
  CHECK(begin[2] == 2 && end[2] == 3 && begin[3] == 4 && end[3] == 5);
  in.pair = "a", in.pair_bytes = 1;
  expect(sbk_tokenize(model, &in, &out, &count), SBK_OK);
  CHECK(count == 7 && types[4] == 0 && types[5] == 1 && types[6] == 1);
  in.pair = nullptr, in.pair_bytes = 0, out.capacity = 4;
  expect(sbk_tokenize(model, &in, &out, &count), SBK_INVALID_ARGUMENT, "tokens->capacity=4");
  CHECK_EQ(count, 5);
  out.capacity = 8, in.max_length = 3;
  expect(sbk_tokenize(model, &in, &out, &count), SBK_OK);
  CHECK_EQ(count, 3);
  in.no_truncation = 1;
  expect(sbk_tokenize(model, &in, &out, &count), SBK_INVALID_ARGUMENT, "max_length");
  in.max_length = 17;
  expect(sbk_tokenize(model, &in, &out, &count), SBK_INVALID_ARGUMENT, "text->max_length=17");
  in.max_length = 0, in.text_bytes = -1;
  expect(sbk_tokenize(model, &in, &out, &count), SBK_INVALID_ARGUMENT, "text->text_bytes=-1");
  in.text = nullptr, in.text_bytes = 3;
  expect(sbk_tokenize(model, &in, &out, &count), SBK_INVALID_ARGUMENT, "text->text_bytes=3");
  in.text_bytes = 0;
  expect(sbk_tokenize(model, &in, &out, &count), SBK_OK);
  CHECK_EQ(count, 2);
  expect(sbk_tokenize(model, &in, &out, nullptr), SBK_INVALID_ARGUMENT, "count is NULL");

  CHECK_EQ(sbk_token_id(model, "[MASK]"), 4);
  CHECK_EQ(sbk_token_id(model, "##c"), 7);
  CHECK_EQ(sbk_token_id(model, "zzz"), -1);
  CHECK_EQ(sbk_token_id(model, nullptr), -1);
  char decoded[16] = "";
  std::size_t bytes = 0;
  expect(sbk_decode(model, want, 5, decoded, sizeof decoded, &bytes), SBK_OK);
  CHECK_EQ(std::string(decoded), "abc a");
  CHECK_EQ(bytes, 5u);
  expect(sbk_decode(model, want, 5, decoded, 3, &bytes), SBK_OK);
  CHECK_EQ(std::string(decoded), "ab");
  CHECK_EQ(bytes, 5u);
  expect(sbk_decode(model, want, 5, nullptr, 0, &bytes), SBK_OK);
  expect(sbk_decode(model, want, 5, nullptr, 1, &bytes), SBK_INVALID_ARGUMENT, "text is NULL");
  expect(sbk_decode(model, nullptr, 5, decoded, 3, &bytes), SBK_INVALID_ARGUMENT, "token_ids is NULL");
  expect(sbk_decode(model, want, -1, decoded, 3, &bytes), SBK_INVALID_ARGUMENT, "count=-1");
  constexpr int32_t odd[] = {-7, 2147483647, 5};
  expect(sbk_decode(model, odd, 3, decoded, sizeof decoded, &bytes), SBK_OK);
  CHECK_EQ(std::string(decoded), "a");

  Folder plain{TinyModel{}};
  const ModelHandle without = load(plain.path());
  expect(sbk_tokenize(without, &in, &out, &count), SBK_UNSUPPORTED, "no tokenizer");
  expect(sbk_decode(without, want, 5, decoded, 3, &bytes), SBK_UNSUPPORTED, "no tokenizer");
}
