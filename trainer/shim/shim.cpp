// What libtorch can do and tch does not reach. C functions: 0 is done, 1 is failed with a reason in `error`; no exception
// leaves a body.

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include <ATen/Context.h>
#include <ATen/Version.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>

namespace {

template <typename Body>
int guarded(char *error, size_t capacity, Body body) {
  try {
    body();
    return 0;
  } catch (const std::exception &caught) {
    if (capacity > 0) {
      std::strncpy(error, caught.what(), capacity - 1);
      error[capacity - 1] = '\0';
    }
    return 1;
  } catch (...) {
    if (capacity > 0) error[0] = '\0';
    return 1;
  }
}

std::vector<at::Tensor> tensors(void *const *pointers, size_t count) {
  std::vector<at::Tensor> out;
  out.reserve(count);
  for (size_t i = 0; i < count; ++i) out.push_back(*static_cast<at::Tensor *>(pointers[i]));
  return out;
}

}  // namespace

extern "C" {

// Operators that have a deterministic and another implementation take the first, and refuse where there is none.
int blip2_be_deterministic(char *error, size_t capacity) {
  return guarded(error, capacity, [] {
    // MKL reads its reproducibility mode at its first call: the processor's best branch, with results that do not depend on
    // where memory lies. Processors of other makers would get MKL's slowest branch for it, and keep MKL's own choice.
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_is("intel")) setenv("MKL_CBWR", "AUTO", 0);
#endif
    auto &context = at::globalContext();
    context.setDeterministicAlgorithms(true, false);
    // Memory is not filled with NaN: that helps to find reads of uninitialised memory and costs a pass over everything.
    context.setDeterministicFillUninitializedMemory(false);
    context.setBenchmarkCuDNN(false);
    context.setDeterministicCuDNN(true);
    context.setFloat32MatmulPrecision("highest");
  });
}

int blip2_is_deterministic() { return at::globalContext().deterministicAlgorithms() ? 1 : 0; }

// What results of this processor depend on: names and values, a line each.
int blip2_describe(char *text, size_t capacity) {
  return guarded(text, capacity, [&] {
    const char *mode = std::getenv("MKL_CBWR");
    // The first line of a version text is its name and number.
    auto line = [](const std::string &version) { return version.substr(0, version.find('\n')); };
    std::string out = "cpu_capability=" + at::get_cpu_capability() + "\nmkl=" + line(at::get_mkl_version()) +
                      "\nonednn=" + line(at::get_mkldnn_version()) + "\nmkl_reproducibility=" + (mode ? mode : "default") + "\n";
    std::strncpy(text, out.c_str(), capacity - 1);
    text[capacity - 1] = '\0';
  });
}

// One update by AdamW of `count` flat tensors. `step` counts updates from 1.
int blip2_fused_adamw(void *const *weights, void *const *gradients, void *const *means, void *const *squares, size_t count,
                      double step, double learning_rate, double beta1, double beta2, double weight_decay, double eps,
                      char *error, size_t capacity) {
  return guarded(error, capacity, [&] {
    if (count == 0) return;
    auto own = tensors(weights, count);
    at::Tensor updates = at::full({}, step, own[0].options());
    std::vector<at::Tensor> steps(count, updates);
    at::_fused_adamw_(own, tensors(gradients, count), tensors(means, count), tensors(squares, count), {}, steps,
                      learning_rate, beta1, beta2, weight_decay, eps, false, false);
  });
}

}
