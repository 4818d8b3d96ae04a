// A stand-in for NCCL and the CUDA runtime on several GPUs, which a test machine does not have: ranks are threads of one
// process, device memory is host memory. Like NCCL, calls return at once and are done when every rank has made them. Unlike
// NCCL, which would hang, ranks that disagree, and ranks that wait for one that has gone, get an asynchronous error.
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace {

enum Kind { AllReduce, ReduceScatter, AllGather, Broadcast, SendsAndReceives };
enum Code { Ok = 0, InvalidArgument = 4, InvalidUsage = 5, RemoteError = 6, NotReady = 600 };

struct Message {
  bool is_send;
  char *data;
  size_t bytes;
  int peer;
};

// One rank's side of a call.
struct Side {
  bool here = false;
  Kind kind;
  const char *from;
  char *to;
  size_t count;
  int type;
  int root;
  std::vector<Message> messages;
};

struct World {
  int size = 0;
  int joined = 0;
  int error = Ok;
  size_t done = 0;                        // calls that every rank has made
  std::deque<std::vector<Side>> pending;  // calls that some rank has made
};

struct Communicator {
  std::shared_ptr<World> world;
  int rank;
  size_t calls = 0;
};

struct Stream {
  Communicator *communicator = nullptr;
};

std::mutex turn;
std::condition_variable changed;
std::map<std::string, std::shared_ptr<World>> worlds;
uint64_t ids = 0;
thread_local int group_depth = 0;
thread_local std::vector<Message> group_messages;
thread_local Communicator *group_communicator = nullptr;
thread_local Stream *group_stream = nullptr;

size_t size_of(int type) {
  switch (type) {
    case 1: return 1;
    case 5: case 8: return 8;
    case 6: case 9: return 2;
    case 7: return 4;
    default: return 0;
  }
}

float widen(uint16_t bits, bool brain) {
  if (brain) {
    uint32_t wide = uint32_t(bits) << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
  }
  int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  float value = exponent == 0 ? std::ldexp(float(mantissa), -24) : std::ldexp(float(mantissa + 1024), exponent - 25);
  return bits & 0x8000 ? -value : value;
}

// Normal numbers only, rounded to nearest even.
uint16_t narrow(float value, bool brain) {
  uint32_t wide;
  memcpy(&wide, &value, 4);
  if (brain) return uint16_t((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
  if (value == 0) return uint16_t(wide >> 16);
  int exponent;
  float mantissa = std::frexp(std::fabs(value), &exponent);
  long bits = std::lrint(std::ldexp(mantissa, 11)) + ((long(exponent) + 13) << 10);
  return uint16_t(bits | (value < 0 ? 0x8000 : 0));
}

template <class T>
void add(char *sum, const char *other, size_t count) {
  for (size_t i = 0; i < count; i++) {
    T a, b;
    memcpy(&a, sum + i * sizeof(T), sizeof(T));
    memcpy(&b, other + i * sizeof(T), sizeof(T));
    a += b;
    memcpy(sum + i * sizeof(T), &a, sizeof(T));
  }
}

void add_half(char *sum, const char *other, size_t count, bool brain) {
  for (size_t i = 0; i < count; i++) {
    uint16_t a, b;
    memcpy(&a, sum + 2 * i, 2);
    memcpy(&b, other + 2 * i, 2);
    a = narrow(widen(a, brain) + widen(b, brain), brain);
    memcpy(sum + 2 * i, &a, 2);
  }
}

void add_as(int type, char *sum, const char *other, size_t count) {
  switch (type) {
    case 1: return add<uint8_t>(sum, other, count);
    case 5: return add<uint64_t>(sum, other, count);
    case 6: return add_half(sum, other, count, false);
    case 7: return add<float>(sum, other, count);
    case 8: return add<double>(sum, other, count);
    default: return add_half(sum, other, count, true);
  }
}

std::vector<char> sum_of(const std::vector<Side> &sides, size_t count) {
  std::vector<char> sum(sides[0].from, sides[0].from + count * size_of(sides[0].type));
  for (size_t rank = 1; rank < sides.size(); rank++) add_as(sides[0].type, sum.data(), sides[rank].from, count);
  return sum;
}

bool same(const Side &a, const Side &b) {
  return a.kind == b.kind && a.count == b.count && a.type == b.type && a.root == b.root;
}

bool exchange(std::vector<Side> &sides) {
  std::map<std::pair<int, int>, std::deque<Message *>> sent;
  for (size_t rank = 0; rank < sides.size(); rank++)
    for (Message &message : sides[rank].messages)
      if (message.is_send) sent[{int(rank), message.peer}].push_back(&message);
  for (size_t rank = 0; rank < sides.size(); rank++)
    for (Message &message : sides[rank].messages) {
      if (message.is_send) continue;
      auto &queue = sent[{message.peer, int(rank)}];
      if (queue.empty() || queue.front()->bytes != message.bytes) return false;
      memcpy(message.data, queue.front()->data, message.bytes);
      queue.pop_front();
    }
  for (auto &entry : sent)
    if (!entry.second.empty()) return false;
  return true;
}

// Does what all ranks have asked for; false when they disagree.
bool run(std::vector<Side> &sides) {
  for (const Side &side : sides)
    if (!same(side, sides[0])) return false;
  size_t bytes = sides[0].count * size_of(sides[0].type);
  switch (sides[0].kind) {
    case AllReduce: {
      std::vector<char> sum = sum_of(sides, sides[0].count);
      for (Side &side : sides) memcpy(side.to, sum.data(), bytes);
      return true;
    }
    case ReduceScatter: {
      std::vector<char> sum = sum_of(sides, sides[0].count * sides.size());
      for (size_t rank = 0; rank < sides.size(); rank++) memcpy(sides[rank].to, sum.data() + rank * bytes, bytes);
      return true;
    }
    case AllGather: {
      std::vector<char> all;
      for (Side &side : sides) all.insert(all.end(), side.from, side.from + bytes);
      for (Side &side : sides) memcpy(side.to, all.data(), all.size());
      return true;
    }
    case Broadcast: {
      std::vector<char> data(sides[sides[0].root].from, sides[sides[0].root].from + bytes);
      for (Side &side : sides) memcpy(side.to, data.data(), bytes);
      return true;
    }
    default: return exchange(sides);
  }
}

int enqueue(Communicator *communicator, Stream *stream, Side side) {
  std::unique_lock<std::mutex> lock(turn);
  World &world = *communicator->world;
  stream->communicator = communicator;
  size_t place = communicator->calls++ - world.done;
  while (world.pending.size() <= place) world.pending.emplace_back(world.size);
  side.here = true;
  world.pending[place][communicator->rank] = std::move(side);
  while (!world.pending.empty() && world.error == Ok) {
    auto &sides = world.pending.front();
    bool all = true;
    for (Side &one : sides) all = all && one.here;
    if (!all) break;
    if (!run(sides)) {
      world.error = InvalidUsage;
      break;
    }
    world.pending.pop_front();
    world.done++;
  }
  changed.notify_all();
  return Ok;
}

bool ready(Stream *stream) {
  Communicator *communicator = stream->communicator;
  return communicator == nullptr || communicator->calls <= communicator->world->done;
}

// An aborted communicator's work is over.
void wait_for(Stream *stream) {
  std::unique_lock<std::mutex> lock(turn);
  changed.wait(lock, [&] { return ready(stream) || stream->communicator->world->error != Ok; });
}

Side collective(Kind kind, const void *from, void *to, size_t count, int type, int root = 0) {
  Side side;
  side.kind = kind;
  side.from = static_cast<const char *>(from);
  side.to = static_cast<char *>(to);
  side.count = count;
  side.type = type;
  side.root = root;
  return side;
}

}  // namespace

extern "C" {

struct Id {
  char bytes[128];
};

int ncclGetVersion(int *version) { *version = 22809; return Ok; }

int ncclGetUniqueId(Id *id) {
  std::lock_guard<std::mutex> lock(turn);
  memset(id->bytes, 0, sizeof id->bytes);
  ids++;
  memcpy(id->bytes, &ids, sizeof ids);
  return Ok;
}

const char *ncclGetErrorString(int code) {
  switch (code) {
    case Ok: return "no error";
    case InvalidArgument: return "invalid argument";
    case InvalidUsage: return "invalid usage";
    case RemoteError: return "remote process exited or there was a network error";
    default: return "unknown result code";
  }
}

int ncclCommInitRank(void **communicator, int size, Id id, int rank) {
  std::unique_lock<std::mutex> lock(turn);
  auto &world = worlds[std::string(id.bytes, sizeof id.bytes)];
  if (!world) world = std::make_shared<World>();
  if (rank < 0 || rank >= size || (world->size != 0 && world->size != size)) return InvalidArgument;
  world->size = size;
  world->joined++;
  changed.notify_all();
  std::shared_ptr<World> mine = world;
  changed.wait(lock, [&] { return mine->joined >= size; });
  *communicator = new Communicator{mine, rank};
  return Ok;
}

int ncclCommDestroy(void *communicator) {
  std::lock_guard<std::mutex> lock(turn);
  World &world = *static_cast<Communicator *>(communicator)->world;
  if (world.error == Ok && world.size > 1) world.error = RemoteError;
  changed.notify_all();
  return Ok;
}

int ncclCommAbort(void *communicator) {
  std::lock_guard<std::mutex> lock(turn);
  World &world = *static_cast<Communicator *>(communicator)->world;
  if (world.error == Ok) world.error = RemoteError;
  changed.notify_all();
  return Ok;
}

int ncclCommGetAsyncError(void *communicator, int *error) {
  std::lock_guard<std::mutex> lock(turn);
  *error = static_cast<Communicator *>(communicator)->world->error;
  return Ok;
}

int ncclAllReduce(const void *from, void *to, size_t count, int type, int, void *communicator, void *stream) {
  return enqueue(static_cast<Communicator *>(communicator), static_cast<Stream *>(stream),
                 collective(AllReduce, from, to, count, type));
}

int ncclReduceScatter(const void *from, void *to, size_t count, int type, int, void *communicator, void *stream) {
  return enqueue(static_cast<Communicator *>(communicator), static_cast<Stream *>(stream),
                 collective(ReduceScatter, from, to, count, type));
}

int ncclAllGather(const void *from, void *to, size_t count, int type, void *communicator, void *stream) {
  return enqueue(static_cast<Communicator *>(communicator), static_cast<Stream *>(stream),
                 collective(AllGather, from, to, count, type));
}

int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, void *communicator, void *stream) {
  return enqueue(static_cast<Communicator *>(communicator), static_cast<Stream *>(stream),
                 collective(Broadcast, from, to, count, type, root));
}

static int message(Message one, void *communicator, void *stream) {
  if (group_depth == 0) return InvalidUsage;
  group_communicator = static_cast<Communicator *>(communicator);
  group_stream = static_cast<Stream *>(stream);
  group_messages.push_back(one);
  return Ok;
}

int ncclSend(const void *data, size_t count, int type, int peer, void *communicator, void *stream) {
  return message({true, static_cast<char *>(const_cast<void *>(data)), count * size_of(type), peer}, communicator, stream);
}

int ncclRecv(void *data, size_t count, int type, int peer, void *communicator, void *stream) {
  return message({false, static_cast<char *>(data), count * size_of(type), peer}, communicator, stream);
}

int ncclGroupStart() { group_depth++; return Ok; }

int ncclGroupEnd() {
  if (group_depth == 0) return InvalidUsage;
  if (--group_depth > 0 || group_messages.empty()) return Ok;
  Side side = collective(SendsAndReceives, nullptr, nullptr, 0, 1);
  side.messages.swap(group_messages);
  return enqueue(group_communicator, group_stream, side);
}

const char *cudaGetErrorString(int) { return "an error of the stand-in"; }
int cudaGetDeviceCount(int *count) { *count = 16; return Ok; }
int cudaSetDevice(int) { return Ok; }
int cudaMalloc(void **address, size_t bytes) { *address = malloc(bytes); return Ok; }
int cudaFree(void *address) { free(address); return Ok; }
int cudaStreamCreateWithFlags(void **stream, unsigned) { *stream = new Stream; return Ok; }
int cudaStreamDestroy(void *) { return Ok; }

int cudaStreamQuery(void *stream) {
  std::lock_guard<std::mutex> lock(turn);
  return ready(static_cast<Stream *>(stream)) ? Ok : NotReady;
}

int cudaStreamSynchronize(void *stream) {
  wait_for(static_cast<Stream *>(stream));
  return Ok;
}

int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int, void *stream) {
  wait_for(static_cast<Stream *>(stream));
  memcpy(to, from, bytes);
  return Ok;
}
}
