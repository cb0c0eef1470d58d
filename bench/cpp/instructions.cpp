#include "instructions.h"

extern "C" __attribute__((noinline)) void sbk_counted_run(sbk::bench::Work& work) { work.run(); }

#if defined(__linux__) && defined(__x86_64__)
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

namespace sbk::bench {
namespace {

void child(Work& work) {
  if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(1);
  work.run();  // pages are mapped and functions bound before anything is counted
  asm volatile("int3");
  sbk_counted_run(work);
  asm volatile("int3");
  _exit(0);
}

// Whether the child stopped at an int3, rather than behind a step.
bool at_marker(pid_t pid) {
  siginfo_t info;
  return ptrace(PTRACE_GETSIGINFO, pid, nullptr, &info) == 0 && info.si_code != TRAP_TRACE;
}

bool stopped(pid_t pid, int status) {
  return waitpid(pid, &status, 0) == pid && WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP;
}

}  // namespace

int64_t count_instructions(Work& work) {
  // Parent and child take turns at every step: several times as fast on one CPU.
  cpu_set_t before, one;
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  const bool pinned = sched_getaffinity(0, sizeof before, &before) == 0 && sched_setaffinity(0, sizeof one, &one) == 0;
  const pid_t pid = fork();
  if (pid == 0) child(work);
  int64_t count = -1;
  if (pid > 0 && stopped(pid, 0)) {
    for (count = 0;; count++) {
      if (ptrace(PTRACE_SINGLESTEP, pid, nullptr, nullptr) != 0 || !stopped(pid, 0)) {
        count = -1;
        break;
      }
      if (at_marker(pid)) break;
    }
  }
  if (pid > 0) kill(pid, SIGKILL), waitpid(pid, nullptr, 0);
  if (pinned) sched_setaffinity(0, sizeof before, &before);
  return count;
}

}  // namespace sbk::bench
#else
namespace sbk::bench {
int64_t count_instructions(Work&) { return -1; }
}  // namespace sbk::bench
#endif
