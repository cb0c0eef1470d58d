// The C interface and what surrounds a call: the caller's floating-point modes, links and special files in the place of
// a model, fork().
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cfenv>
#include <thread>

#include "capi_case.h"
#include "support/float_modes.h"

using namespace test;

namespace {

constexpr sbk_dtype kDtypes[] = {SBK_FLOAT32, SBK_BFLOAT16, SBK_INT8, SBK_FLOAT16};

// The caller's own pool, of two threads with modes of their own.
struct Pool {
  int rounding;

  static void run(void* self, int64_t n, sbk_task task, void* arg) {
    std::thread other([&] {
      const FloatModes modes(static_cast<Pool*>(self)->rounding, true);
      task(arg, 0, n / 2);
    });
    task(arg, n / 2, n);
    other.join();
  }
};

}  // namespace

TEST(the_tier_is_chosen) { choose_tier(table); }

TEST(rounding_and_flushing_change_no_bit) {
  TinyModel tiny;
  tiny.architecture = "SqueezeBertForSequenceClassification";  // with a pooler, whose tanh is the library's
  tiny.layers = 1, tiny.more = ", \"layer_norm_eps\": 1e-12";
  for (const sbk_dtype dtype : kDtypes) {
    Folder folder{tiny};
    const std::string file = folder.file("model.sbk");
    std::string bytes;
    std::vector<Outputs> want;
    for (const int rounding : {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
      const Context where([&] { return text("dtype=", dtype, " rounding=", rounding); });
      const bool first = rounding == FE_TONEAREST;
      const FloatModes modes(rounding, !first);
      const ModelHandle model = load(folder.path(), dtype);
      expect(sbk_model_save(model, file.c_str()), SBK_OK);
      if (first) bytes = read_file(file);
      CHECK(read_file(file) == bytes);
      Random random(5);
      const Batch batch(random, info_of(model), 3, 9, Padding::holes);
      Pool pool{rounding};
      ContextHandle hooked;
      sbk_context_options options{};
      options.size = sizeof options, options.threads = 2, options.parallel_for = Pool::run, options.pool = &pool;
      expect(sbk_context_create(&options, hooked.out()), SBK_OK);
      const ContextHandle two = make_context(2);
      for (sbk_context* context : {static_cast<sbk_context*>(two), static_cast<sbk_context*>(hooked)}) {
        const Outputs got = run(model, context, batch);
        if (want.empty()) want.push_back(got);
        CHECK(got == want[0]);
      }
      CHECK_EQ(std::fegetround(), rounding);
    }
  }
}

TEST(models_are_saved_to_regular_files_only) {
  Folder folder{TinyModel{}};
  const ModelHandle model = load(folder.path());
  const std::string real = folder.file("real.sbk"), link = folder.file("link.sbk"), pipe = folder.file("pipe");
  CHECK(symlink("real.sbk", link.c_str()) == 0 && mkfifo(pipe.c_str(), 0600) == 0);
  expect(sbk_model_save(model, link.c_str()), SBK_OK);
  CHECK(chmod(real.c_str(), 0640) == 0);
  expect(sbk_model_save(model, link.c_str()), SBK_OK);
  struct stat info;
  CHECK(lstat(link.c_str(), &info) == 0 && S_ISLNK(info.st_mode));
  CHECK(lstat(real.c_str(), &info) == 0 && (info.st_mode & 07777) == 0640);
  CHECK(info_of(load(real)).hidden_size == TinyModel{}.hidden);
  expect(sbk_model_save(model, pipe.c_str()), SBK_IO_ERROR, "it is a pipe, not a regular file");
  expect(sbk_model_save(model, "/dev/null"), SBK_IO_ERROR, "'/dev/null': it is a device, not a regular file");
  expect(sbk_model_save(model, folder.path().c_str()), SBK_IO_ERROR, "it is a folder");
}

#if !defined(SBK_NO_FORK)
// Also while another thread of the parent is in a call.
TEST(a_forked_child_goes_on) {
  Folder folder{TinyModel{}};
  const ModelHandle model = load(folder.path());
  const ContextHandle context = make_context(3), other = make_context(3);
  Random random(6);
  const Batch batch(random, info_of(model), 4, 12, Padding::none);
  const Outputs want = run(model, context, batch);
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop) run(model, other, batch);
  });
  std::fflush(stdout);
  for (int i = 0; i < 5; i++) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(60);  // a call that hangs is a failure
      const bool old_one = run(model, context, batch) == want;
      const bool new_one = run(model, make_context(3), batch) == want;
      _exit(old_one && new_one ? 7 : 1);
    }
    int status = 0;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
  }
  stop = true;
  busy.join();
}
#endif
