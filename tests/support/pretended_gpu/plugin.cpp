// A CUDA device without a GPU, for PyTorch's CPU build; see __init__.py.
//
// PyTorch asks three things of a device's library, and this answers them: hooks (is there a device, is this memory
// pinned), a device guard (which device and stream are current), and kernels.  A tensor of the device is an ordinary
// tensor with dispatch key CUDA whose storage owns a storage of the CPU.  Every operator of it comes to `run`, which
// calls the CPU's kernel on the storages behind, and notes what a GPU would have done.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <array>
#include <atomic>
#include <cstring>
#include <list>
#include <mutex>
#include <set>
#include <unordered_map>

namespace {

const c10::Device GPU(c10::DeviceType::CUDA, 0);

// --- what happened ------------------------------------------------------------------------------------------------

// In the order of `KINDS` in counting.py.
enum Kind { LAUNCH, READ, WRITE, SHAPE, SYNCHRONIZATION, ASYNC_COPY, VIEW, ALLOCATION, NUM_KINDS };

std::atomic<int64_t> counts[NUM_KINDS];
using Listener = void (*)(int kind, const char* name);
std::atomic<Listener> listener{nullptr};

void note(Kind kind, const char* name) {
  ++counts[kind];
  if (auto* listening = listener.load()) listening(kind, name);
}

// --- copies to pinned memory that are under way -------------------------------------------------------------------

// A GPU fills pinned memory some time after the call that asks for it; until the host has waited, it holds anything.
struct Underway {
  int64_t number;
  at::Tensor into, values;
};
std::mutex underway_lock;
std::list<Underway> underway;
std::atomic<int64_t> num_asked{0};

void deliver(int64_t up_to) {
  std::list<Underway> ready;
  {
    std::lock_guard<std::mutex> guard(underway_lock);
    while (!underway.empty() && underway.front().number <= up_to)
      ready.splice(ready.end(), underway, underway.begin());
  }
  at::AutoDispatchBelowADInplaceOrView guard;
  for (auto& each : ready) each.into.copy_(each.values);
}

void wait(Kind kind, const char* name) {
  note(kind, name);
  deliver(num_asked);
}

// --- memory -------------------------------------------------------------------------------------------------------

// Bytes of the device's living storages, the most of them since the last reset, and what may not be exceeded.
std::atomic<int64_t> allocated{0}, peak{0}, limit{INT64_MAX};

// A storage of the device owns the CPU's storage that its numbers lie in.
struct Owner {
  c10::Storage storage;
  int64_t num_bytes;
  explicit Owner(c10::Storage it) : storage(std::move(it)), num_bytes(storage.nbytes()) {
    TORCH_CHECK_WITH(
      OutOfMemoryError, num_bytes == 0 || allocated + num_bytes <= limit, "CUDA out of memory. Tried to allocate ",
      num_bytes, " bytes beside ", allocated.load(), " of ", limit.load(), " (pretended).");
    allocated += num_bytes;
    peak = std::max<int64_t>(peak, allocated);
  }
  ~Owner() { allocated -= num_bytes; }
};

std::mutex pinned_lock;
std::set<const void*> pinned;

// Pinned memory: the CPU's own, which is remembered.
struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t num_bytes) override {
    auto* owner = new c10::DataPtr(c10::GetAllocator(c10::DeviceType::CPU)->allocate(num_bytes));
    std::lock_guard<std::mutex> guard(pinned_lock);
    pinned.insert(owner->get());
    return {owner->get(), owner, &PinnedAllocator::release, c10::Device(c10::DeviceType::CPU)};
  }
  static void release(void* it) {
    auto* owner = static_cast<c10::DataPtr*>(it);
    std::lock_guard<std::mutex> guard(pinned_lock);
    pinned.erase(owner->get());
    delete owner;
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* into, const void* from, size_t num_bytes) const override {
    default_copy_data(into, from, num_bytes);
  }
};
PinnedAllocator pinned_allocator;

// --- what PyTorch asks a device's library -------------------------------------------------------------------------

struct Hooks : at::CUDAHooksInterface {
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex current_device() const override { return 0; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  int getNumGPUs() const override { return 1; }
  void deviceSynchronize(c10::DeviceIndex) const override { wait(SYNCHRONIZATION, "synchronize"); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  bool isPinnedPtr(const void* data) const override {
    std::lock_guard<std::mutex> guard(pinned_lock);
    return pinned.count(data) > 0;
  }
};

// One device with one stream.
struct Guard : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device getDevice() const override { return GPU; }
  c10::Device exchangeDevice(c10::Device) const override { return GPU; }
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, GPU); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, GPU); }
};
Guard device_guard;

// --- from the device's tensors to the CPU's and back --------------------------------------------------------------

const c10::Storage& owned(const at::Tensor& gpu) {
  auto* owner = static_cast<Owner*>(gpu.storage().data_ptr().get_context());
  TORCH_CHECK(owner != nullptr, "a CUDA storage that the pretended GPU did not make");
  return owner->storage;
}

at::Tensor shaped(at::Tensor made, const at::Tensor& like) {
  made.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return made;
}

// The same numbers as a tensor of the CPU.
at::Tensor twin_of(const at::Tensor& gpu) {
  return shaped(
    at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(owned(gpu)), c10::DispatchKeySet(c10::DispatchKey::CPU), gpu.dtype()),
    gpu);
}

// The same numbers as a tensor of the device with a storage of its own.
at::Tensor on_device(const at::Tensor& cpu) {
  auto* owner = new Owner(cpu.storage());
  c10::DataPtr data(
    owner->storage.mutable_data(), owner, [](void* it) { delete static_cast<Owner*>(it); }, GPU);
  c10::Storage storage(c10::Storage::use_byte_size_t(), owner->num_bytes, std::move(data), nullptr, false);
  return shaped(
    at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CUDA), cpu.dtype()),
    cpu);
}

// The tensors of one call: those of the device, the CPU's tensors that stand for them, and those of the CPU.
struct Call {
  c10::SmallVector<at::Tensor, 4> gpu, twins, cpu;

  at::Tensor lower(const at::Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    if (!tensor.is_cuda()) {
      cpu.push_back(tensor);
      return tensor;
    }
    for (size_t i = 0; i < gpu.size(); ++i)
      if (gpu[i].is_same(tensor)) return twins[i];
    gpu.push_back(tensor);
    twins.push_back(twin_of(tensor));
    return twins.back();
  }

  c10::IValue lower(const c10::IValue& value) {
    if (value.isTensor()) return lower(value.toTensor());
    if (value.isDevice()) return c10::Device(c10::DeviceType::CPU);
    if (value.isTensorList()) {
      c10::List<at::Tensor> found;
      for (const at::Tensor& each : value.toTensorList()) found.push_back(lower(each));
      return found;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> found;
      for (const std::optional<at::Tensor>& each : value.toOptionalTensorList())
        found.push_back(each.has_value() ? std::optional<at::Tensor>(lower(*each)) : std::nullopt);
      return found;
    }
    return value;
  }

  at::Tensor lift(const at::Tensor& tensor) const {
    if (!tensor.defined()) return tensor;
    for (size_t i = 0; i < gpu.size(); ++i)
      if (twins[i].is_same(tensor)) return gpu[i];
    for (const auto& each : cpu)
      if (each.is_same(tensor)) return tensor;
    for (const auto& each : gpu)
      if (owned(each).unsafeGetStorageImpl() == tensor.storage().unsafeGetStorageImpl())
        // With the keys of its source: in inference mode a view of a weight is no inference tensor.
        return shaped(
          at::detail::make_tensor<c10::TensorImpl>(
            c10::TensorImpl::VIEW, c10::Storage(each.storage()), each.key_set(), tensor.dtype()),
          tensor);
    return on_device(tensor);
  }

  c10::IValue lift(const c10::IValue& value) const {
    if (value.isTensor()) return lift(value.toTensor());
    if (value.isTensorList()) {
      c10::List<at::Tensor> found;
      for (const at::Tensor& each : value.toTensorList()) found.push_back(lift(each));
      return found;
    }
    return value;
  }

  // Where an operator changed the shape of an argument (resize_, set_, out=), the device's tensor follows.
  void follow() const {
    for (size_t i = 0; i < gpu.size(); ++i) {
      const auto& twin = twins[i];
      auto* own = gpu[i].unsafeGetTensorImpl();
      if (own->sizes() == twin.sizes() && own->strides() == twin.strides() &&
          own->storage_offset() == twin.storage_offset() &&
          owned(gpu[i]).unsafeGetStorageImpl() == twin.storage().unsafeGetStorageImpl() &&
          gpu[i].storage().nbytes() == twin.storage().nbytes())
        continue;
      own->set_storage_keep_dtype(on_device(twin).storage());
      own->set_sizes_and_strides(twin.sizes(), twin.strides(), twin.storage_offset());
    }
  }
};

// --- what an operator is on a GPU ---------------------------------------------------------------------------------

struct Traits {
  bool is_aten, is_view, allocates, reads, finds_shape, indexes, copies, is_fused, takes_scalars, changes;
};

bool one_of(const std::string& name, std::initializer_list<const char*> names) {
  return std::any_of(names.begin(), names.end(), [&](const char* each) { return name == each; });
}

bool starts_with_any(const std::string& name, std::initializer_list<const char*> starts) {
  return std::any_of(starts.begin(), starts.end(), [&](const char* each) { return name.rfind(each, 0) == 0; });
}

Traits traits_of(const c10::OperatorHandle& op) {
  const auto& schema = op.schema();
  const bool is_aten = schema.name().rfind("aten::", 0) == 0;
  const std::string name = is_aten ? schema.name().substr(6) : schema.name();
  const auto& returns = schema.returns();
  Traits found{};
  found.is_aten = is_aten && name.find("mkldnn") == std::string::npos;
  found.is_view = !returns.empty() && std::all_of(returns.begin(), returns.end(), [](const c10::Argument& each) {
    return each.alias_info() != nullptr && !each.alias_info()->isWrite();
  });
  found.allocates = starts_with_any(name, {"empty", "new_empty", "resize_"});
  found.reads = one_of(name, {"_local_scalar_dense", "equal"});
  found.finds_shape = one_of(
    name, {"nonzero", "masked_select", "_unique", "_unique2", "unique_consecutive", "unique_dim", "bincount"});
  found.indexes = one_of(name, {"index", "index_put", "index_put_", "_index_put_impl_"});
  found.copies = name == "copy_";
  found.is_fused = starts_with_any(name, {"_fused_adam", "_fused_sgd", "_fused_adagrad"});
  // Beside the pointwise operators: those that take a 0-dimensional tensor of the CPU.
  found.takes_scalars = op.hasTag(at::Tag::pointwise) ||
    one_of(name, {"where", "masked_fill", "masked_fill_", "fill_", "clamp", "clamp_", "lerp", "lerp_", "index_fill_"});
  found.changes = schema.is_mutable();
  return found;
}

const Traits& traits(const c10::OperatorHandle& op) {
  static std::mutex lock;
  static std::unordered_map<c10::OperatorName, Traits> known;
  std::lock_guard<std::mutex> guard(lock);
  auto found = known.find(op.operator_name());
  if (found == known.end()) found = known.emplace(op.operator_name(), traits_of(op)).first;
  return found->second;
}

// --- what a GPU would refuse or wait for --------------------------------------------------------------------------

void check_devices(const c10::OperatorHandle& op, const Traits& kind, const Call& call) {
  if (call.cpu.empty() || call.gpu.empty()) return;
  const bool scalars_only =
    std::all_of(call.cpu.begin(), call.cpu.end(), [](const at::Tensor& each) { return each.dim() == 0; });
  TORCH_CHECK(
    kind.takes_scalars && scalars_only,
    "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (",
    op.schema().name(), ")");
}

void check_generator(const c10::IValue& value) {
  if (!value.isGenerator()) return;
  const auto& generator = value.toGenerator();
  TORCH_CHECK(
    !generator.defined() || generator.device().is_cuda(), "Expected a 'cuda' device type for generator but found '",
    generator.device().type(), "'");
}

void look_at_indices(const char* name, const c10::IValue* arguments, size_t num_arguments) {
  const auto& own = arguments[0].toTensor();
  TORCH_CHECK(own.is_cuda(), "indices should be either on cpu or on the same device as the indexed tensor (cpu)");
  size_t num_masks = 0, num_indices = 0;
  for (const std::optional<at::Tensor>& each : arguments[1].toOptionalTensorList()) {
    if (!each.has_value() || !each->defined()) continue;
    ++num_indices;
    if (each->scalar_type() == at::kBool || each->scalar_type() == at::kByte) ++num_masks;
    if (!each->is_cuda()) wait(WRITE, name);  // an index of the CPU is copied first
  }
  bool fills = false;
  if (num_arguments > 2) {
    const auto& values = arguments[2].toTensor();
    TORCH_CHECK(
      values.is_cuda() || values.dim() == 0, "Expected all tensors to be on the same device, got ", name,
      " values on ", values.device());
    // One mask and one number of the CPU is masked_fill_, which needs no positions.
    fills = num_masks == 1 && num_indices == 1 && values.numel() == 1 && !values.is_cuda();
  }
  for (size_t i = 0; !fills && i < num_masks; ++i) wait(SHAPE, name);
}

// A copy between host and device, or within the device.  True where it was only asked for.
bool copy_later(const char* name, const c10::IValue* arguments) {
  const auto &into = arguments[0].toTensor(), &source = arguments[1].toTensor();
  const bool non_blocking = arguments[2].toBool();
  if (source.numel() == 0) return false;
  if (into.is_cuda() && source.is_cuda()) {
    note(LAUNCH, name);
    return false;
  }
  const bool to_device = into.is_cuda();
  if (!(non_blocking && (to_device ? source : into).is_pinned())) {
    wait(to_device ? WRITE : READ, name);
    return false;
  }
  note(ASYNC_COPY, name);
  if (to_device) return false;
  at::AutoDispatchBelowADInplaceOrView guard;
  std::lock_guard<std::mutex> lock(underway_lock);
  underway.push_back({++num_asked, into, twin_of(source).to(into.scalar_type(), false, true)});
  if (into.is_non_overlapping_and_dense()) std::memset(into.mutable_data_ptr(), 0x7f, into.nbytes());
  return true;
}

void note_kind(const char* name, const Traits& kind) {
  if (kind.reads) wait(READ, name);
  else if (kind.is_view) note(VIEW, name);
  else if (kind.allocates) note(ALLOCATION, name);
  else note(LAUNCH, name);
  if (kind.finds_shape) wait(SHAPE, name);
}

// --- every operator of the device ---------------------------------------------------------------------------------

void run(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto& kind = traits(op);
  const char* name = schema.name().c_str();
  TORCH_CHECK_NOT_IMPLEMENTED(
    kind.is_aten, "Could not run '", name, "' with arguments from the 'CUDA' backend (pretended).");
  const size_t num_arguments = schema.arguments().size(), begin = stack->size() - num_arguments;
  const c10::IValue* arguments = stack->data() + begin;
  if (kind.copies && copy_later(name, arguments)) {
    auto into = (*stack)[begin];
    stack->resize(begin);
    stack->push_back(into);
    return;
  }
  Call call;
  torch::jit::Stack lowered;
  lowered.reserve(num_arguments);
  for (size_t i = 0; i < num_arguments; ++i) {
    check_generator(arguments[i]);
    lowered.push_back(call.lower(arguments[i]));
  }
  if (kind.indexes) look_at_indices(name, arguments, num_arguments);
  else if (!kind.copies) check_devices(op, kind, call);
  TORCH_CHECK(
    !kind.is_fused || call.cpu.empty(), name, ": a tensor of the CPU, which is an illegal memory access on a GPU");
  if (!kind.copies) note_kind(name, kind);
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    op.callBoxed(&lowered);
  }
  std::vector<c10::IValue> results;
  results.reserve(lowered.size());
  for (const auto& each : lowered) results.push_back(call.lift(each));
  if (kind.changes) call.follow();
  stack->resize(begin);
  for (auto& each : results) stack->push_back(std::move(each));
}

// Attention is one kernel on a GPU; the CPU build would take it apart for a device that it has no such kernel for.
at::Tensor attention(
  const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const std::optional<at::Tensor>& mask,
  double dropout, bool is_causal, std::optional<double> scale, bool enable_gqa) {
  if (dropout > 0 || query.dim() != 4 || (mask.has_value() && mask->requires_grad()))
    return std::get<0>(at::_scaled_dot_product_attention_math(
      query, key, value, mask, dropout, is_causal, std::nullopt, scale, enable_gqa));
  std::optional<at::Tensor> bias;
  if (mask.has_value() && mask->defined()) {
    // As the library does: a mask of booleans becomes one of numbers.
    bias = mask->scalar_type() == at::kBool
      ? at::zeros_like(*mask, query.options()).masked_fill_(mask->logical_not(), -INFINITY) : *mask;
    bias = bias->expand({query.size(0), query.size(1), query.size(2), key.size(2)});
  }
  const auto groups = enable_gqa ? query.size(1) / key.size(1) : 1;
  const auto keys = groups == 1 ? key : key.repeat_interleave(groups, 1);
  const auto values = groups == 1 ? value : value.repeat_interleave(groups, 1);
  return std::get<0>(
    at::_scaled_dot_product_flash_attention_for_cpu(query, keys, values, dropout, is_causal, bias, scale));
}

// The gradient of _fused_rms_norm, for which a CPU build has no kernel at all.
std::tuple<at::Tensor, at::Tensor> rms_norm_backward(
  const at::Tensor& grad, const at::Tensor& input, at::IntArrayRef shape, const at::Tensor& rstd,
  const std::optional<at::Tensor>& weight, std::array<bool, 2> wanted) {
  std::vector<int64_t> normed;
  for (int64_t i = input.dim() - static_cast<int64_t>(shape.size()); i < input.dim(); ++i) normed.push_back(i);
  const auto scaled = input * rstd;
  const auto inner = weight.has_value() ? grad * *weight : grad;
  at::Tensor of_input, of_weight;
  if (wanted[0]) of_input = rstd * (inner - scaled * (inner * scaled).mean(normed, true));
  if (wanted[1]) of_weight = (grad * scaled).sum_to_size(shape);
  return {of_input, of_weight};
}

// Kernels are overridden on purpose; torch would warn about it.
struct IgnoreWarnings final : c10::WarningHandler {
  void process(const c10::Warning&) override {}
};

// Kernels for the key CUDA, with a CPU build's own for it overridden where a CUDA build has real ones.
void register_kernels() {
  IgnoreWarnings ignore;
  c10::WarningUtils::WarningHandlerGuard quiet(&ignore);
  static torch::Library fallbacks(torch::Library::IMPL, "_", c10::DispatchKey::CUDA, __FILE__, __LINE__);
  fallbacks.fallback(torch::CppFunction::makeFromBoxedFunction<&run>());
  static torch::Library kernels(torch::Library::IMPL, "aten", c10::DispatchKey::CUDA, __FILE__, __LINE__);
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    if (name.name.rfind("aten::", 0) != 0) continue;
    const auto op = dispatcher.findOp(name);
    if (!op.has_value() || !op->hasSchema()) continue;
    const bool is_taken_apart =
      op->hasKernelForDispatchKey(c10::DispatchKey::CompositeExplicitAutogradNonFunctional) ||
      name.name.rfind("aten::_foreach_", 0) == 0 || name.name == "aten::copy_" ||
      name.name == "aten::_fused_rms_norm";
    if (!is_taken_apart) continue;
    const auto short_name = name.name.substr(6) + (name.overload_name.empty() ? "" : "." + name.overload_name);
    kernels.impl(short_name.c_str(), torch::CppFunction::makeFromBoxedFunction<&run>());
  }
  kernels.impl("scaled_dot_product_attention", attention);
  kernels.impl("_fused_rms_norm_backward", rms_norm_backward);
  static torch::Library gradients(torch::Library::IMPL, "aten", c10::DispatchKey::AutogradCUDA, __FILE__, __LINE__);
  gradients.impl("scaled_dot_product_attention", attention);
}

}  // namespace

extern "C" {
int64_t count_of(int kind) { return counts[kind]; }
void listen(Listener it) { listener = it; }
int64_t num_copies_asked() { return num_asked; }
void wait_for_copies(int64_t up_to, const char* name) {
  note(SYNCHRONIZATION, name);
  deliver(up_to);
}
void deliver_copies(int64_t up_to) { deliver(up_to); }
int64_t allocated_bytes() { return allocated; }
int64_t peak_bytes() { return peak; }
void reset_peak() { peak = allocated.load(); }
void set_limit(int64_t num_bytes) { limit = num_bytes; }

void install() {
  // PyTorch may have made its own hooks already, which know no CUDA; they have no fields, so ours take their place.
  static_assert(sizeof(Hooks) == sizeof(at::CUDAHooksInterface));
  new (const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks())) Hooks();
  c10::impl::device_guard_impl_registry[static_cast<int>(c10::DeviceType::CUDA)].store(&device_guard);
  register_kernels();
}
}
