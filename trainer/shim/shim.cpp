// What libtorch can do and tch does not reach. C functions: 0 is done, 1 is failed with a reason in `error`; no exception
// leaves a body.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/full.h>
#include <ATen/ops/index_select.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/profiler_kineto.h>

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

at::Tensor rows_of(const at::Tensor &x, const at::Tensor &rows, const at::Tensor &hollow) {
  auto out = at::index_select(x, 0, rows);
  if (hollow.size(0) > 0) out.index_fill_(0, hollow, 0);
  return out;
}

// Moves rows there, and their gradients back: both ways read, which is as fast as copying and has one order. The gradient of
// `index_select` adds row by row instead, as it cannot know that no row is taken twice.
struct MovedRows : public torch::autograd::Function<MovedRows> {
  static at::Tensor forward(torch::autograd::AutogradContext *context, const at::Tensor &x, const at::Tensor &there,
                            const at::Tensor &hollow_there, const at::Tensor &back, const at::Tensor &hollow_back) {
    context->save_for_backward({back, hollow_back});
    return rows_of(x, there, hollow_there);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext *context,
                                                 torch::autograd::variable_list gradients) {
    auto saved = context->get_saved_variables();
    return {rows_of(gradients[0], saved[0], saved[1]), {}, {}, {}, {}};
  }
};

// The output of SplitMix64 (Steele et al. 2014), seeded with `key`, that stands at `place`.
inline uint64_t random_bits(uint64_t key, uint64_t place) {
  uint64_t z = key + (place + 1) * 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

// Each number of `x` is 0 or is divided by the probability to stay, by its place and the key alone: any number of threads drops
// the same, and nothing needs to be kept for the gradient.
at::Tensor dropped(const at::Tensor &given, double p, uint64_t key) {
  auto x = given.contiguous();
  auto out = at::empty_like(x);
  const auto threshold = static_cast<uint32_t>(std::min(std::round(p * 4294967296.0), 4294967295.0));
  const auto scale = static_cast<float>(1.0 / (1.0 - p));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "dropout", [&] {
    const auto *in = x.const_data_ptr<scalar_t>();
    auto *to = out.mutable_data_ptr<scalar_t>();
    const int64_t count = x.numel();
    auto one = [&](int64_t i, uint32_t drawn) {
      to[i] = drawn < threshold ? scalar_t(0) : static_cast<scalar_t>(in[i] * scale);
    };
    // Two numbers share the 64 bits of a place.
    at::parallel_for(0, (count + 1) / 2, 1 << 14, [&](int64_t begin, int64_t end) {
      const int64_t whole = std::min(end, count / 2);
      for (int64_t pair = begin; pair < whole; ++pair) {
        const uint64_t bits = random_bits(key, pair);
        one(2 * pair, static_cast<uint32_t>(bits));
        one(2 * pair + 1, static_cast<uint32_t>(bits >> 32));
      }
      if (whole < end) one(2 * whole, static_cast<uint32_t>(random_bits(key, whole)));
    });
  });
  return out;
}

struct Dropout : public torch::autograd::Function<Dropout> {
  static at::Tensor forward(torch::autograd::AutogradContext *context, const at::Tensor &x, double p, int64_t key) {
    context->saved_data["p"] = p;
    context->saved_data["key"] = key;
    return dropped(x, p, key);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext *context,
                                                 torch::autograd::variable_list gradients) {
    return {dropped(gradients[0], context->saved_data["p"].toDouble(), context->saved_data["key"].toInt()), {}, {}};
  }
};

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
    // cuBLAS asks for it where results are to be the same in any number of streams.
    setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);
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

// Gives what the heap keeps for later back to the system.
void blip2_return_free_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

// Bytes that the program holds of its heap; 0 where that cannot be told.
uint64_t blip2_memory_in_use() {
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
  const auto heap = mallinfo2();
  return heap.uordblks + heap.hblkhd;
#else
  return 0;
#endif
}

// Begins to note every operation, and every kernel of a GPU.
int blip2_begin_trace(char *error, size_t capacity) {
  return guarded(error, capacity, [] {
    using namespace torch::profiler::impl;
    const ProfilerConfig config(ProfilerState::KINETO);
    const std::set<ActivityType> activities{ActivityType::CPU, ActivityType::CUDA};
    torch::autograd::profiler::prepareProfiler(config, activities);
    torch::autograd::profiler::enableProfiler(config, activities, {at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION});
  });
}

// Writes what was noted to a file that chrome://tracing and Perfetto read.
int blip2_end_trace(const char *path, char *error, size_t capacity) {
  return guarded(error, capacity, [&] { torch::autograd::profiler::disableProfiler()->save(path); });
}

// Bytes that tensors hold of a GPU's memory, now and at most since the last call with `restart`.
int blip2_gpu_memory(int device, int restart, uint64_t *now, uint64_t *peak, char *error, size_t capacity) {
  return guarded(error, capacity, [&] {
    auto *allocator = at::getDeviceAllocator(at::kCUDA);
    const auto index = static_cast<c10::DeviceIndex>(device);
    const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    const auto stats = allocator->getDeviceStats(index).allocated_bytes[all];
    *now = static_cast<uint64_t>(stats.current);
    *peak = static_cast<uint64_t>(stats.peak);
    if (restart) allocator->resetPeakStats(index);
  });
}

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

// The rows of `x` that `there` names, those of `hollow_there` being 0; gradients go by `back` and `hollow_back`. All are
// pointers to tensors; `moved` gets a new one.
int blip2_moved_rows(void *const *tensors_in, void **moved, char *error, size_t capacity) {
  return guarded(error, capacity, [&] {
    auto in = tensors(tensors_in, 5);
    *moved = new at::Tensor(MovedRows::apply(in[0], in[1], in[2], in[3], in[4]));
  });
}

// Dropout of a tensor in the processor's memory; `out` gets a new one.
int blip2_dropout(void *x, double p, uint64_t key, void **out, char *error, size_t capacity) {
  return guarded(error, capacity, [&] {
    *out = new at::Tensor(Dropout::apply(*static_cast<at::Tensor *>(x), p, static_cast<int64_t>(key)));
  });
}

// Attention without mask, dropout and gradient by cuDNN; `out` gets a new tensor. Fails where cuDNN has no kernel for it.
int blip2_cudnn_attention(void *query, void *key, void *value, void **out, char *error, size_t capacity) {
  return guarded(error, capacity, [&] {
    auto of = [](void *pointer) -> const at::Tensor & { return *static_cast<at::Tensor *>(pointer); };
    auto all = at::_scaled_dot_product_cudnn_attention(of(query), of(key), of(value), std::nullopt, false);
    *out = new at::Tensor(std::get<0>(all));
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
