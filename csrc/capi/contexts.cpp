// Contexts: threads and scratch memory.
#include "capi/capi.h"
#include "runtime/topology.h"

using namespace sbk;
using namespace sbk::capi;

sbk_status sbk_context_create(const sbk_context_options* given, sbk_context** context) {
  return guarded([&] {
    require(context, "context");
    const sbk_context_options options = given != nullptr ? versioned(given, "options") : sbk_context_options{};
    require_range(options.threads, 0, 4096, "options->threads");
    if (options.parallel_for != nullptr && options.threads == 0) {
      fail(SBK_INVALID_ARGUMENT, "options->threads is 0: how wide is the pool behind options->parallel_for?");
    }
    if (options.parallel_for == nullptr && options.pool != nullptr) {
      fail(SBK_INVALID_ARGUMENT, "options->pool is given without options->parallel_for");
    }
    if (options.workspace == nullptr && options.workspace_bytes != 0) {
      fail(SBK_INVALID_ARGUMENT, "options->workspace_bytes=", options.workspace_bytes, " without options->workspace");
    }
    auto made = std::make_unique<sbk_context>();
    if (options.parallel_for != nullptr) {
      made->executor.emplace(options.threads, options.parallel_for, options.pool);
    } else {
      const std::vector<int> cores =
          options.threads == 0 || options.pin != 0 ? read_topology().big_cores() : std::vector<int>{};
      const int threads = options.threads > 0 ? options.threads : std::max(1, static_cast<int>(cores.size()));
      made->executor.emplace(threads, options.pin != 0 ? cores : std::vector<int>{});
    }
    if (options.workspace != nullptr) {
      made->executor->lend(static_cast<std::byte*>(options.workspace), options.workspace_bytes);
    }
    *context = made.release();
  });
}

void sbk_context_free(sbk_context* context) { delete context; }

int32_t sbk_context_threads(const sbk_context* context) {
  return context != nullptr ? context->executor->threads() : 0;
}
