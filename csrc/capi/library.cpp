// Version, errors and the CPU.
#include "capi/capi.h"
#include "runtime/topology.h"

namespace sbk::capi {
namespace {

// Cut to a fixed size, so that reporting an error never allocates.
thread_local char last_error[512] = "";

}  // namespace

sbk_status set_error(sbk_status status, const char* message) noexcept {
  std::size_t i = 0;
  for (; message[i] != '\0' && i < sizeof last_error - 1; i++) last_error[i] = message[i];
  last_error[i] = '\0';
  return status;
}

const KernelTable& active() {
  std::string error;
  const KernelTable* table = active_table(&error);
  if (table == nullptr) fail(SBK_UNSUPPORTED, error);
  return *table;
}

}  // namespace sbk::capi

using namespace sbk;

const char* sbk_version(void) {
  return SBK_VERSION;  // the project's, from CMakeLists.txt
}

const char* sbk_status_name(sbk_status status) {
  switch (capi::number_of(status)) {
    case SBK_OK:
      return "SBK_OK";
    case SBK_INVALID_ARGUMENT:
      return "SBK_INVALID_ARGUMENT";
    case SBK_OUT_OF_MEMORY:
      return "SBK_OUT_OF_MEMORY";
    case SBK_IO_ERROR:
      return "SBK_IO_ERROR";
    case SBK_BAD_FILE:
      return "SBK_BAD_FILE";
    case SBK_UNSUPPORTED:
      return "SBK_UNSUPPORTED";
    case SBK_BUSY:
      return "SBK_BUSY";
    case SBK_INTERNAL_ERROR:
      return "SBK_INTERNAL_ERROR";
  }
  return "unknown status";
}

const char* sbk_last_error(void) { return capi::last_error; }

const char* sbk_isa_name(int32_t index) {
  const auto& tables = available_tables();
  return index >= 0 && index < static_cast<int32_t>(tables.size()) ? tables[static_cast<std::size_t>(index)]->isa
                                                                   : nullptr;
}

const char* sbk_active_isa(void) {
  const char* name = nullptr;
  capi::guarded([&] { name = capi::active().isa; });
  return name;
}

int32_t sbk_big_cores(int32_t* cpus, int32_t capacity) {
  int32_t count = 1;
  capi::guarded([&] {
    const std::vector<int> cores = read_topology().big_cores();
    count = std::max<int32_t>(1, static_cast<int32_t>(cores.size()));
    for (int32_t i = 0; cpus != nullptr && i < std::min(capacity, static_cast<int32_t>(cores.size())); i++) {
      cpus[i] = cores[static_cast<std::size_t>(i)];
    }
  });
  return count;
}
