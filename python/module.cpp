// squeezebert_runtime._native: the C interface for Python, over NumPy arrays whose types and shapes model.py has
// checked. Only the public header of the library is used.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "squeezebert_kernels.h"

namespace py = pybind11;

namespace {

using Ints = py::array_t<int32_t, py::array::c_style>;
using Floats = py::array_t<float, py::array::c_style>;

// Raises what `status` is in Python. Arguments have the names that they have there.
void check(sbk_status status) {
  if (status == SBK_OK) return;
  std::string message = sbk_last_error();
  constexpr std::pair<const char*, const char*> names[] = {
      {"input->token_ids", "ids"}, {"input->", ""}, {"output->", ""}, {"options->", ""}, {"text->", ""}};
  for (const auto& [from, to] : names) {
    for (std::size_t at; (at = message.find(from)) != std::string::npos;)
      message.replace(at, std::string(from).size(), to);
  }
  PyObject* type = PyExc_ValueError;
  if (status == SBK_IO_ERROR) type = PyExc_OSError;
  if (status == SBK_OUT_OF_MEMORY) type = PyExc_MemoryError;
  if (status == SBK_BUSY || status == SBK_INTERNAL_ERROR) type = PyExc_RuntimeError;
  // Names in a damaged file may be no UTF-8.
  const auto text = py::reinterpret_steal<py::object>(
      PyUnicode_DecodeUTF8(message.data(), static_cast<Py_ssize_t>(message.size()), "replace"));
  PyErr_SetObject(type, text.ptr());
  throw py::error_already_set();
}

// What an array holds now. Without the GIL other threads may write to the array, and sbk_run checks what it then reads
// again; so it gets copies that nobody else knows.
class Copy {
 public:
  explicit Copy(const std::optional<Ints>& array) {
    if (!array) return;
    values_.emplace().reserve(static_cast<std::size_t>(array->size()) + 1);  // no values are not the same as no array
    values_->assign(array->data(), array->data() + array->size());
  }
  const int32_t* data() const { return values_ ? values_->data() : nullptr; }
  std::size_t size() const { return values_ ? values_->size() : 0; }

 private:
  std::optional<std::vector<int32_t>> values_;
};

class Model {
 public:
  Model(const std::string& path, int dtype, int head, const std::optional<std::string>& isa, int verify, int threads,
        bool pin)
      : threads_(threads), pin_(pin) {
    sbk_load_options options{};
    options.size = sizeof options, options.dtype = static_cast<sbk_dtype>(dtype);
    options.head = static_cast<sbk_head>(head), options.verify = verify;
    if (isa) options.isa = isa->c_str();
    sbk_model* model = nullptr;
    sbk_status status = SBK_OK;
    std::string error;
    {
      const py::gil_scoped_release release;
      status = sbk_model_load(path.c_str(), &options, &model);
    }
    check(status);
    model_ = std::shared_ptr<sbk_model>(model, Free());
    // The first context: what is wrong with it shows here.
    idle_.push_back(make_context());
    threads_ = sbk_context_threads(idle_.front().get());
  }

  int threads() const { return threads_; }

  // Frees everything as soon as no call is in progress.
  void close() {
    std::vector<Context> idle;
    const std::lock_guard lock(mutex_);
    model_.reset();
    idle.swap(idle_);
  }

  py::dict info() const {
    sbk_model_info info{};
    info.size = sizeof info;
    check(sbk_model_get_info(opened().get(), &info));
    py::dict out;
    out["dtype"] = static_cast<int>(info.dtype), out["head"] = static_cast<int>(info.head);
    out["isa"] = info.isa, out["architecture"] = info.architecture;
    out["vocab_size"] = info.vocab_size, out["hidden_size"] = info.hidden_size, out["num_layers"] = info.num_layers;
    out["num_heads"] = info.num_heads, out["intermediate_size"] = info.intermediate_size;
    out["max_length"] = info.max_length, out["num_labels"] = info.num_labels;
    out["has_pooler"] = info.has_pooler != 0, out["has_tokenizer"] = info.has_tokenizer != 0;
    out["mapped_bytes"] = info.mapped_bytes, out["allocated_bytes"] = info.allocated_bytes;
    out["repacked_bytes"] = info.repacked_bytes;
    return out;
  }

  std::vector<py::str> labels() const {
    std::vector<py::str> labels;
    const Handle model = opened();
    for (int32_t i = 0; const char* label = sbk_model_label(model.get(), i); i++) {
      labels.push_back(py::reinterpret_steal<py::str>(
          PyUnicode_DecodeUTF8(label, static_cast<Py_ssize_t>(std::char_traits<char>::length(label)), "replace")));
    }
    return labels;
  }

  // Arrays are dense and have the shapes that model.py says; outputs are written.
  void run(const Ints& ids, const std::optional<Ints>& types, const std::optional<Ints>& lengths,
           const std::optional<Ints>& mask, const std::optional<Ints>& logit_tokens, std::optional<Floats> hidden,
           std::optional<Floats> pooled, std::optional<Floats> logits) {
    const Handle model = opened();
    const Copy ids_now(ids), types_now(types), lengths_now(lengths), mask_now(mask), logit_tokens_now(logit_tokens);
    sbk_input in{};
    in.size = sizeof in, in.batch = static_cast<int32_t>(ids.shape(0)), in.length = static_cast<int32_t>(ids.shape(1));
    in.token_ids = ids_now.data(), in.token_type_ids = types_now.data(), in.lengths = lengths_now.data();
    in.attention_mask = mask_now.data(), in.logit_tokens = logit_tokens_now.data();
    in.num_logit_tokens = static_cast<int32_t>(logit_tokens_now.size());
    sbk_output out{};
    out.size = sizeof out;
    const auto set = [](std::optional<Floats>& array, float*& data, std::size_t& size) {
      if (array) data = array->mutable_data(), size = static_cast<std::size_t>(array->size());
    };
    set(hidden, out.hidden_states, out.hidden_states_size), set(pooled, out.pooled, out.pooled_size);
    set(logits, out.logits, out.logits_size);

    const Lease context(*this);
    sbk_status status = SBK_OK;
    {
      const py::gil_scoped_release release;
      status = sbk_run(model.get(), context.get(), &in, &out);
    }
    check(status);
  }

  // ids, type ids, and bytes [begin, end) of each token.
  py::tuple tokenize(const std::string& text, const std::optional<std::string>& pair, int max_length,
                     bool truncation) const {
    const Handle model = opened();
    sbk_text in{};
    in.size = sizeof in, in.text = text.data(), in.text_bytes = static_cast<int64_t>(text.size());
    if (pair) in.pair = pair->data(), in.pair_bytes = static_cast<int64_t>(pair->size());
    in.max_length = max_length, in.no_truncation = !truncation;
    sbk_model_info info{};
    info.size = sizeof info;
    check(sbk_model_get_info(model.get(), &info));
    const auto most = static_cast<std::size_t>(info.max_length);
    std::vector<int32_t> ids(most), types(most);
    std::vector<int64_t> begin(most), end(most);
    const sbk_tokens out{sizeof out, static_cast<int32_t>(most), ids.data(), types.data(), begin.data(), end.data()};
    int32_t count = 0;
    sbk_status status = SBK_OK;
    {
      const py::gil_scoped_release release;
      status = sbk_tokenize(model.get(), &in, &out, &count);
    }
    check(status);
    py::array_t<int64_t> spans({static_cast<py::ssize_t>(count), py::ssize_t{2}});
    auto span = spans.mutable_unchecked<2>();
    for (int32_t i = 0; i < count; i++) {
      span(i, 0) = begin[static_cast<std::size_t>(i)], span(i, 1) = end[static_cast<std::size_t>(i)];
    }
    return py::make_tuple(Ints(count, ids.data()), Ints(count, types.data()), spans);
  }

  std::string decode(const Ints& ids) const {
    const Handle model = opened();
    const Copy now(ids);
    std::size_t bytes = 0;
    const auto count = static_cast<int32_t>(now.size());
    check(sbk_decode(model.get(), now.data(), count, nullptr, 0, &bytes));
    std::string text(bytes + 1, '\0');
    check(sbk_decode(model.get(), now.data(), count, text.data(), text.size(), &bytes));
    text.resize(bytes);
    return text;
  }

  int token_id(const std::string& token) const { return sbk_token_id(opened().get(), token.c_str()); }

 private:
  struct Free {
    void operator()(sbk_model* model) const { sbk_model_free(model); }
    void operator()(sbk_context* context) const { sbk_context_free(context); }
  };
  using Context = std::unique_ptr<sbk_context, Free>;
  using Handle = std::shared_ptr<sbk_model>;

  // The model, for as long as a call needs it.
  Handle opened() const {
    const std::lock_guard lock(mutex_);
    if (!model_) throw py::value_error("the model is closed");
    return model_;
  }

  // A context for one call: an idle one, or a new one where as many calls as there are contexts are in progress.
  class Lease {
   public:
    explicit Lease(Model& model) : model_(model) {
      {
        const std::lock_guard lock(model.mutex_);
        if (!model.idle_.empty()) {
          context_ = std::move(model.idle_.back());
          model.idle_.pop_back();
          return;
        }
      }
      context_ = model.make_context();
    }
    ~Lease() {
      const std::lock_guard lock(model_.mutex_);
      if (model_.model_) model_.idle_.push_back(std::move(context_));
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    sbk_context* get() const { return context_.get(); }

   private:
    Model& model_;
    Context context_;
  };

  Context make_context() const {
    sbk_context_options options{};
    options.size = sizeof options, options.threads = threads_, options.pin = pin_;
    sbk_context* context = nullptr;
    check(sbk_context_create(&options, &context));
    return Context(context);
  }

  int threads_;
  bool pin_;
  mutable std::mutex mutex_;
  Handle model_;  // none once it is closed
  std::vector<Context> idle_;
};

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "The C interface of squeezebert_kernels.";
  py::class_<Model>(m, "Model")
      .def(py::init<const std::string&, int, int, const std::optional<std::string>&, bool, int, bool>(),
           py::arg("path"), py::arg("dtype"), py::arg("head"), py::arg("isa").none(true), py::arg("verify"),
           py::arg("threads"), py::arg("pin"))
      .def_property_readonly("threads", &Model::threads)
      .def("close", &Model::close)
      .def("info", &Model::info)
      .def("labels", &Model::labels)
      // noconvert: an array that would have to be copied is an error of model.py.
      .def("run", &Model::run, py::arg("ids").noconvert(), py::arg("types").noconvert().none(true),
           py::arg("lengths").noconvert().none(true), py::arg("mask").noconvert().none(true),
           py::arg("logit_tokens").noconvert().none(true), py::arg("hidden").noconvert().none(true),
           py::arg("pooled").noconvert().none(true), py::arg("logits").noconvert().none(true))
      .def("tokenize", &Model::tokenize, py::arg("text"), py::arg("pair").none(true), py::arg("max_length"),
           py::arg("truncation"))
      .def("decode", &Model::decode, py::arg("ids").noconvert())
      .def("token_id", &Model::token_id, py::arg("token"));
  m.def("version", [] { return sbk_version(); });
  m.def("isas", [] {
    std::vector<std::string> names;
    for (int32_t i = 0; const char* name = sbk_isa_name(i); i++) names.emplace_back(name);
    return names;
  });
  m.def("active_isa", [] {
    const char* name = sbk_active_isa();
    if (name == nullptr) throw py::value_error(sbk_last_error());
    return name;
  });
  m.def("big_cores", [] {
    std::vector<int> cpus(static_cast<std::size_t>(sbk_big_cores(nullptr, 0)));
    sbk_big_cores(cpus.data(), static_cast<int32_t>(cpus.size()));
    return cpus;
  });
}
