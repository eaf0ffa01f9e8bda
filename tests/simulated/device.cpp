// A pretended cuda:0 for machines without one: memory of the host, kernels of the CPU, and CUDA's rules on top.
//
// What it shows: tensors of two devices in one operation, what autocast casts, copies between host and device, reads
// of a number by the host (each waits for the device), and how many kernels would be launched. It also refuses memory
// beyond a limit, as a full card does. What it cannot show: streams, generators, cuDNN, speed.
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/FakeGuardImpl.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <set>
#include <string>
#include <vector>

using at::IValue;
using at::Tensor;
using c10::IntArrayRef;
using c10::SymIntArrayRef;

namespace {

enum Count { TO_DEVICE, TO_DEVICE_BLOCKING, TO_HOST, TO_HOST_BLOCKING, READS, LAUNCHES, CASTS, IN_USE, PEAK, COUNTS };
std::atomic<int64_t> counts[COUNTS];
std::atomic<int64_t> most_bytes{0};  // 0: no limit
std::atomic<bool> counting{true};

void count(Count what) {
  if (counting) ++counts[what];
}
std::atomic<bool> no_doubles{false};  // as on MPS

const c10::Device CARD(c10::kCUDA, 0);
const c10::DispatchKeySet CARD_KEYS(c10::DispatchKey::CUDA);

// Each block begins with its length, so that freeing it can take it off the count.
constexpr size_t HEADER = 64;

void give_back(void* data) {
  if (!data) return;
  auto* block = static_cast<char*>(data) - HEADER;
  counts[IN_USE] -= *reinterpret_cast<int64_t*>(block);
  std::free(block);
}

struct CardMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (!bytes) return {nullptr, nullptr, &give_back, CARD};
    const int64_t used = counts[IN_USE] + static_cast<int64_t>(bytes);
    TORCH_CHECK_WITH(OutOfMemoryError, !most_bytes || used <= most_bytes, "CUDA out of memory. Tried to allocate ",
                     bytes, " bytes (simulated card of ", most_bytes.load(), ")");
    auto* block = static_cast<char*>(std::aligned_alloc(HEADER, HEADER + (bytes + HEADER - 1) / HEADER * HEADER));
    *reinterpret_cast<int64_t*>(block) = static_cast<int64_t>(bytes);
    counts[IN_USE] = used;
    if (used > counts[PEAK]) counts[PEAK] = used;
    return {block + HEADER, block + HEADER, &give_back, CARD};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
};
CardMemory memory;

void refuse_doubles(at::ScalarType type) {
  TORCH_CHECK_TYPE(!no_doubles || type != at::kDouble, "this device has no float64 (simulated, as MPS)");
}

// The same memory, seen by the CPU's kernels.
Tensor seen_by_host(const Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_cuda()) return tensor;
  return at::for_blob(tensor.numel() ? tensor.data_ptr() : nullptr, tensor.sizes())
      .strides(tensor.strides())
      .options(at::TensorOptions().dtype(tensor.scalar_type()).device(at::kCPU))
      .target_device(at::Device(at::kCPU))
      .context(new Tensor(tensor), [](void* kept) { delete static_cast<Tensor*>(kept); })
      .make_tensor();
}

Tensor on_card(const Tensor& host) {
  if (!host.defined()) return host;
  refuse_doubles(host.scalar_type());
  Tensor made =
      at::detail::empty_strided_generic(host.sizes(), host.strides(), &memory, CARD_KEYS, host.scalar_type());
  c10::impl::ExcludeDispatchKeyGuard without_autograd(c10::autograd_dispatch_keyset);
  seen_by_host(made).copy_(host);
  return made;
}

// --- what needs no kernel -------------------------------------------------------------------------------------------

Tensor empty(IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  refuse_doubles(c10::dtype_or_default(dtype));
  return at::detail::empty_generic(size, &memory, CARD_KEYS, c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(IntArrayRef size, IntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  refuse_doubles(c10::dtype_or_default(dtype));
  return at::detail::empty_strided_generic(size, stride, &memory, CARD_KEYS, c10::dtype_or_default(dtype));
}

Tensor as_strided(const Tensor& self, SymIntArrayRef size, SymIntArrayRef stride, std::optional<c10::SymInt> offset) {
  std::optional<int64_t> start;
  if (offset) start = offset->expect_int();
  return at::native::as_strided_tensorimpl(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), start);
}

Tensor view(const Tensor& self, SymIntArrayRef size) { return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size)); }

Tensor reshape_alias(const Tensor& self, SymIntArrayRef size, SymIntArrayRef stride) {
  return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

const Tensor& resize(const Tensor& self, SymIntArrayRef size, std::optional<at::MemoryFormat> format) {
  const auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  size_t bytes = self.element_size();
  for (const auto side : sizes) bytes *= side;
  auto* storage = self.storage().unsafeGetStorageImpl();
  if (storage->nbytes() < bytes) {
    storage->set_data_ptr_noswap(memory.allocate(bytes));
    storage->set_nbytes(bytes);
  }
  auto* shape = self.unsafeGetTensorImpl();
  shape->set_sizes_contiguous(sizes);
  if (format && *format != at::MemoryFormat::Preserve) shape->empty_tensor_restride(*format);
  return self;
}

Tensor& set_part(Tensor& self, at::Storage storage, c10::SymInt offset, SymIntArrayRef size, SymIntArrayRef stride) {
  auto* shape = self.unsafeGetTensorImpl();
  shape->set_storage_keep_dtype(std::move(storage));
  shape->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), offset.expect_int());
  return self;
}

Tensor& set_whole(Tensor& self, at::Storage storage) {
  const int64_t length = static_cast<int64_t>(storage.nbytes()) / self.element_size(), one = 1;
  auto* shape = self.unsafeGetTensorImpl();
  shape->set_storage_keep_dtype(std::move(storage));
  shape->set_sizes_and_strides(IntArrayRef(&length, 1), IntArrayRef(&one, 1), 0);
  return self;
}

// --- what crosses the bus -------------------------------------------------------------------------------------------

Tensor& copy(Tensor& self, const Tensor& source, bool non_blocking) {
  if (self.is_cuda() && source.is_cuda()) {
    count(LAUNCHES);
    if (self.scalar_type() != source.scalar_type()) count(CASTS);
  } else if (self.is_cuda()) {
    count(TO_DEVICE);
    if (!non_blocking) count(TO_DEVICE_BLOCKING);
  } else {
    count(TO_HOST);
    if (!non_blocking) count(TO_HOST_BLOCKING);
  }
  Tensor target = seen_by_host(self);
  target.copy_(seen_by_host(source));
  return self;
}

at::Scalar read_number(const Tensor& self) {
  count(READS);
  return at::_local_scalar_dense(seen_by_host(self));
}

// --- everything else: the CPU's kernel, after a look at the devices ---------------------------------------------------

// CUDA takes indices, and the scale of a gradient scaler, from either side.
const std::set<std::string> MAY_MIX = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_",
                                       "aten::_foreach_add_"};

struct Devices {
  bool card = false, host = false, card_number = false;
  std::string shapes;

  void see(const Tensor& tensor) {
    if (!tensor.defined()) return;
    shapes += (tensor.is_cuda() ? " cuda" : " cpu") + c10::str(tensor.sizes());
    if (tensor.dim() == 0) card_number |= tensor.is_cuda();  // a number of the host may go anywhere
    else (tensor.is_cuda() ? card : host) = true;
  }

  void check(const std::string& name) const {
    const bool free = MAY_MIX.count(name) || name.rfind("aten::_amp_", 0) == 0;
    TORCH_CHECK(free || !host || !(card || card_number),
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (",
                name, shapes, ")");
  }
};

using Grown = std::vector<std::pair<size_t, Tensor>>;

IValue host_argument(const IValue& given, const c10::Argument& declared, size_t index, Devices& devices, Grown& grown) {
  if (given.isTensor()) {
    const Tensor tensor = given.toTensor();
    devices.see(tensor);
    const auto* alias = declared.alias_info();
    if (alias && alias->isWrite() && tensor.defined() && tensor.is_cuda() && tensor.numel() == 0) {
      grown.emplace_back(index, at::empty(tensor.sizes(), tensor.options().device(at::kCPU)));
      return grown.back().second;  // an `out=` that the kernel may enlarge
    }
    return seen_by_host(tensor);
  }
  if (given.isTensorList()) {
    std::vector<Tensor> seen;
    for (const Tensor& tensor : given.toTensorVector()) {
      devices.see(tensor);
      seen.push_back(seen_by_host(tensor));
    }
    return IValue(std::move(seen));
  }
  if (given.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> seen;
    for (const auto& tensor : given.toOptionalTensorVector()) {
      if (tensor) devices.see(*tensor);
      seen.push_back(tensor ? std::optional<Tensor>(seen_by_host(*tensor)) : std::nullopt);
    }
    return IValue(seen);
  }
  return given.isDevice() ? IValue(c10::Device(c10::kCPU)) : given;
}

// The argument that a result is, for operations that work in place; nothing for new results.
std::optional<size_t> written_argument(const c10::FunctionSchema& schema, size_t result) {
  const auto* alias = schema.returns()[result].alias_info();
  if (!alias || !alias->isWrite()) return std::nullopt;
  for (size_t i = 0; i < schema.arguments().size(); ++i) {
    const auto* other = schema.arguments()[i].alias_info();
    if (other && other->isWrite() && other->beforeSets() == alias->beforeSets()) return i;
  }
  return std::nullopt;
}

IValue card_result(const IValue& made) {
  if (made.isTensor()) return on_card(made.toTensor());
  if (!made.isTensorList()) return made;
  std::vector<Tensor> moved;
  for (const Tensor& tensor : made.toTensorVector()) moved.push_back(on_card(tensor));
  return IValue(std::move(moved));
}

void by_the_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const size_t taken = schema.arguments().size(), given = schema.returns().size(), begin = stack->size() - taken;
  const std::vector<IValue> originals(stack->begin() + begin, stack->end());
  Devices devices;
  Grown grown;
  for (size_t i = 0; i < taken; ++i)
    (*stack)[begin + i] = host_argument(originals[i], schema.arguments()[i], i, devices, grown);
  devices.check(schema.operator_name().name);
  count(LAUNCHES);
  op.callBoxed(stack);
  for (auto& [i, result] : grown) {
    if (!result.numel()) continue;
    const Tensor target = originals[i].toTensor();
    resize(target, c10::fromIntArrayRefSlow(result.sizes()), std::nullopt);
    seen_by_host(target).copy_(result);
  }
  for (size_t r = 0; r < given; ++r) {
    IValue& result = (*stack)[stack->size() - given + r];
    const auto argument = written_argument(schema, r);
    result = argument ? originals[*argument] : card_result(result);
  }
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("as_strided", as_strided);
  library.impl("view", view);
  library.impl("_reshape_alias", reshape_alias);
  library.impl("resize_", resize);
  library.impl("set_.source_Storage", set_whole);
  library.impl("set_.source_Storage_storage_offset", set_part);
  library.impl("copy_", copy);
  library.impl("_local_scalar_dense", read_number);
}
TORCH_LIBRARY_IMPL(_, CUDA, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&by_the_cpu>()); }

using Guard = c10::impl::FakeGuardImpl<c10::DeviceType::CUDA>;
C10_REGISTER_GUARD_IMPL(CUDA, Guard);
REGISTER_ALLOCATOR(c10::kCUDA, &memory);

}  // namespace

namespace at {
struct OneCard final : CUDAHooksInterface {
  explicit OneCard(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  Device getDeviceFromPtr(void*) const override { return CARD; }
  bool isPinnedPtr(const void*) const override { return false; }
  Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(kCPU); }
};
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, OneCard);
}  // namespace at

extern "C" void simulated_counts(int64_t* out, int reset) {
  for (int i = 0; i < COUNTS; ++i) {
    out[i] = counts[i];
    if (reset && i < IN_USE) counts[i] = 0;
  }
  if (reset) counts[PEAK] = counts[IN_USE].load();
}

// Stops counting for what a card does in one kernel and this one in many, which is then one launch.
extern "C" void simulated_one_launch(int begins) {
  counting = !begins;
  if (begins) ++counts[LAUNCHES];
}

extern "C" void simulated_doubles(int allowed) { no_doubles = !allowed; }

extern "C" void simulated_limit(int64_t bytes) { most_bytes = bytes; }
