#include "emulator.h"

#include <ucontext.h>

#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

Dimension threadIdx, blockIdx, gridDim;
int emulated_threads;

namespace emulator {
namespace {

constexpr uint32_t kStart = 0x1410;  // the shared address of the first byte
constexpr int kStack = 1 << 18;
constexpr int kPatience = 20000;  // rounds in which nobody gets further, before it counts as a deadlock

struct Groups {
  std::vector<std::function<void()>> open;
  std::deque<std::vector<std::function<void()>>> committed;

  void commit() {
    committed.push_back(std::move(open));
    open.clear();
  }
  void wait(int pending) {
    for (; static_cast<int>(committed.size()) > pending; committed.pop_front()) {
      for (auto& act : committed.front()) act();
    }
  }
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool done = false;
  Groups copies;
};

struct Meeting {
  int arrived = 0, generation = 0;
  const char* kind = nullptr;
  std::vector<void*> operands;
};

struct Block {
  std::vector<Fiber> fibers;
  std::map<std::pair<int, int>, Meeting> meetings;  // by count and by which group of so many threads
  std::vector<std::function<void()>> engine;
  std::map<int, Groups> multiplications;  // by warpgroup
  std::map<uint32_t, Barrier> barriers;
  std::vector<uint8_t> memory;
  uint8_t* shared = nullptr;
  int shared_bytes = 0;
  std::string failure;
  bool moved = false;
};

Block* block;
ucontext_t scheduler;
const std::function<void()>* body;
std::mt19937 generator(1);

Fiber& own() { return block->fibers[threadIdx.x]; }

void start() {
  (*body)();
  own().done = true;
  block->moved = true;
  swapcontext(&own().context, &scheduler);
}

void run_block(int threads, int shared_bytes) {
  Block running;
  block = &running;
  running.memory.assign(shared_bytes + 16, 0xFF);
  const auto address = reinterpret_cast<uintptr_t>(running.memory.data());
  running.shared = running.memory.data() + (16 - address % 16) % 16;
  running.shared_bytes = shared_bytes;
  running.fibers.resize(threads);
  for (Fiber& fiber : running.fibers) {
    fiber.stack.reset(new char[kStack]);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, start, 0);
  }
  int left = threads;
  for (int stuck = 0; left > 0 && running.failure.empty(); ++stuck) {
    left = 0;
    running.moved = false;
    for (int i = 0; i < threads && running.failure.empty(); ++i) {
      if (running.fibers[i].done) continue;
      ++left;
      threadIdx.x = i;
      swapcontext(&scheduler, &running.fibers[i].context);
    }
    if (!running.engine.empty() && generator() % 2 == 0) {
      std::swap(running.engine[generator() % running.engine.size()], running.engine.back());
      const auto act = std::move(running.engine.back());
      running.engine.pop_back();
      act();
      running.moved = true;
    }
    if (running.moved) stuck = 0;
    if (stuck > kPatience) running.failure = "nobody gets further: a deadlock";
  }
  if (running.failure.empty() && !running.engine.empty()) running.failure = "copies were left under way";
  if (!running.failure.empty()) throw std::runtime_error(running.failure);
}

}  // namespace

void fail(const std::string& what) {
  block->failure = what + " (thread " + std::to_string(threadIdx.x) + ")";
  swapcontext(&own().context, &scheduler);
  std::abort();
}

void yield() {
  const unsigned self = threadIdx.x;
  swapcontext(&block->fibers[self].context, &scheduler);
}

void meet(int count, const char* kind, void* operand, const std::function<void(void**)>& act) {
  const int self = static_cast<int>(threadIdx.x);
  Meeting& meeting = block->meetings[{count, self / count}];
  meeting.operands.resize(count);
  if (meeting.arrived > 0 && std::strcmp(meeting.kind, kind) != 0) {
    fail(std::string("some threads are at ") + meeting.kind + ", others at " + kind);
  }
  meeting.kind = kind;
  meeting.operands[self % count] = operand;
  const int generation = meeting.generation;
  block->moved = true;
  if (++meeting.arrived == count) {
    meeting.arrived = 0;
    act(meeting.operands.data());
    ++meeting.generation;
  } else {
    while (meeting.generation == generation) yield();
  }
}

void later(std::function<void()> act) { block->engine.push_back(std::move(act)); }
void copy(std::function<void()> act) { own().copies.open.push_back(std::move(act)); }
void commit_copies() { own().copies.commit(); }
void wait_for_copies(int pending) { own().copies.wait(pending); }

void multiplication(std::function<void()> act) {
  block->multiplications[threadIdx.x / 128].open.push_back(std::move(act));
}
void commit_multiplications() { block->multiplications[threadIdx.x / 128].commit(); }
void wait_for_multiplications(int pending) { block->multiplications[threadIdx.x / 128].wait(pending); }

uint8_t* dynamic_shared() { return block->shared; }

uint32_t shared_address(const void* pointer) {
  return kStart + static_cast<uint32_t>(static_cast<const uint8_t*>(pointer) - block->shared);
}

uint8_t* at(uint32_t address, int bytes) {
  if (address < kStart || address + bytes > kStart + static_cast<uint32_t>(block->shared_bytes)) {
    fail("shared address " + std::to_string(address) + " is not the block's");
  }
  return block->shared + (address - kStart);
}

Barrier& barrier(uint32_t address) {
  at(address, 8);
  return block->barriers[address];
}

void settle(Barrier& barrier) {
  if (barrier.pending < 0) fail("more arrivals at a barrier than it was told of");
  if (barrier.pending > 0 || barrier.bytes != 0) return;
  barrier.pending = barrier.count;
  ++barrier.phase;
  block->moved = true;
}

void run(uint32_t blocks, int threads, int shared_bytes, const std::function<void()>& kernel) {
  emulated_threads = threads;
  gridDim.x = blocks;
  body = &kernel;
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) run_block(threads, shared_bytes);
}

}  // namespace emulator
