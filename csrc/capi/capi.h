// capi/ is the room of the C library: include/squeezebert_kernels.h over ops/ and model/.
//
// This file: what the others share, handles, and how exceptions become a status and a message.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "include/squeezebert_kernels.h"
#include "model/failure.h"
#include "model/model.h"
#include "runtime/cpu.h"
#include "runtime/executor.h"
#include "runtime/file_writer.h"
#include "runtime/float_environment.h"

struct sbk_model {
  std::unique_ptr<sbk::Model> model;
  // The kernels that run it; null where its layout is that of a tier which this CPU lacks.
  const sbk::KernelTable* table;
};

struct sbk_context {
  std::optional<sbk::Executor> executor;
};

struct sbk_weight {
  int64_t num_heads;
  const sbk::PackedHeader* packed;  // in `memory`
  std::unique_ptr<std::byte[]> memory;
};

namespace sbk::capi {

// Remembers `message` for sbk_last_error() and returns `status`.
sbk_status set_error(sbk_status status, const char* message) noexcept;

// f() returns nothing or throws; what it throws becomes the status. The caller's floating-point modes do not reach it.
template <class F>
sbk_status guarded(const F& f) noexcept {
  const FloatEnvironment standard;
  try {
    f();
    return SBK_OK;
  } catch (const Failure& failure) {
    return set_error(failure.status, failure.what());
  } catch (const WriteError& error) {
    return set_error(SBK_IO_ERROR, error.what());
  } catch (const std::bad_alloc&) {
    return set_error(SBK_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& e) {
    return set_error(SBK_INTERNAL_ERROR, e.what());
  } catch (...) {
    return set_error(SBK_INTERNAL_ERROR, "unknown exception");
  }
}

template <class T>
const T& require(const T* argument, const char* name) {
  if (argument == nullptr) fail(SBK_INVALID_ARGUMENT, name, " is NULL");
  return *argument;
}

// The size of a structure of the caller's. One that cuts a member in two is none of any version.
template <class T>
std::size_t checked_size(const T* argument, const char* name) {
  const std::size_t size = require(argument, name).size;
  if (size < sizeof(std::size_t) || size > 4096 || size % alignof(T) != 0) {
    fail(SBK_INVALID_ARGUMENT, name, "->size is ", size, ", should be sizeof *", name);
  }
  return size;
}

// A structure of the caller's, whose `size` tells how much of it there is: members behind it are 0.
template <class T>
T versioned(const T* argument, const char* name) {
  const std::size_t size = checked_size(argument, name);
  T copy{};
  __builtin_memcpy(&copy, argument, size < sizeof copy ? size : sizeof copy);
  if (size > sizeof copy) {  // of a later version: what this one does not know must be unused
    const auto* bytes = reinterpret_cast<const unsigned char*>(argument);
    for (std::size_t i = sizeof copy; i < size; i++) {
      if (bytes[i] != 0) fail(SBK_UNSUPPORTED, name, " uses members that this version of the library does not have");
    }
  }
  return copy;
}

// The number of an enumeration, which callers in C may set to any; reading it as an enumeration would be undefined.
template <class E>
int32_t number_of(const E& value) {
  int32_t number;
  static_assert(sizeof number == sizeof value);
  __builtin_memcpy(&number, &value, sizeof number);
  return number;
}

inline void require_range(int64_t value, int64_t low, int64_t high, const char* name) {
  if (value < low || value > high) {
    fail(SBK_INVALID_ARGUMENT, name, "=", value, " is not from ", low, " to ", high);
  }
}

// The table in use; Failure where SBK_ISA names an impossible one.
const KernelTable& active();

// Runs `call`(table, parallel) with `context`'s threads and memory, of which `demand` is needed.
template <class F>
void run_in(sbk_context* context, const Demand& demand, const F& call) {
  if (const std::size_t missing = context->executor->missing(demand)) {
    fail(SBK_OUT_OF_MEMORY, "the context's workspace is ", missing, " bytes too small for this call");
  }
  if (!context->executor->run(demand, call)) fail(SBK_BUSY, "context is in use by another thread");
}

}  // namespace sbk::capi
