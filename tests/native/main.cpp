#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>

#include <unistd.h>

#include "core/cpu.h"
#include "native.h"

extern "C" void omp_set_num_threads(int);

// What a sanitizer finds ends the program by a signal, which then says in which case it was found.
extern "C" const char* __asan_default_options() { return "abort_on_error=1"; }
extern "C" const char* __ubsan_default_options() { return "abort_on_error=1:print_stacktrace=1"; }

namespace native {

namespace {

struct Listed {
  const char* name;
  Run run;
};

std::vector<Listed>& listed() {
  static std::vector<Listed> all;
  return all;
}

// The case that runs, for a handler of signals, which may format nothing.
char running[256];

void say_what_ran(int) {
  if (write(STDERR_FILENO, running, std::strlen(running)) < 0) std::_Exit(2);
  std::_Exit(1);
}

// Those that some kernel was built for and the processor has.
std::vector<std::string> instruction_sets() {
  std::vector<std::string> found;
  for (int isa = 0; isa < 64; ++isa) {
    const std::string name = sparsekit::isa_name(static_cast<sparsekit::Isa>(isa));
    for (const auto& [stem, built] : sparsekit::built_kernels())
      if (built == name && sparsekit::cpu_runs(static_cast<sparsekit::Isa>(isa)) &&
          std::find(found.begin(), found.end(), name) == found.end())
        found.push_back(name);
  }
  return found;
}

}  // namespace

Family::Family(const char* name, Run run) { listed().push_back({name, run}); }

// Each family so often on each instruction set; returns the number of families that failed.
int run_all(int rounds, const std::string& only) {
  int failures = 0;
  for (const std::string& isa : instruction_sets()) {
    setenv("SPARSEKIT_ISA", isa.c_str(), 1);
    for (const Listed& family : listed()) {
      if (!only.empty() && only != family.name) continue;
      for (int round = 0; round < rounds; ++round) {
        const int threads = 1 + round % 4;
        omp_set_num_threads(threads);
        guarded = round / 4 % 2 == 1;
        std::snprintf(running, sizeof running, "%s on %s, round %d, %d threads\n", family.name, isa.c_str(), round,
                      threads);
        Random random(static_cast<uint64_t>(round));
        try {
          family.run(random);
        } catch (const std::exception& error) {
          std::printf("%s%s\n", running, error.what());
          ++failures;
          break;
        }
      }
    }
    std::printf("%s: %zu families, %d rounds each\n", isa.c_str(), only.empty() ? listed().size() : 1, rounds);
    std::fflush(stdout);
  }
  return failures;
}

}  // namespace native

// Arguments: rounds of each family (default 120), and the one family to run.
int main(int count, char** arguments) {
  std::signal(SIGABRT, native::say_what_ran);
  const int failures = native::run_all(count > 1 ? std::atoi(arguments[1]) : 120, count > 2 ? arguments[2] : "");
  std::printf(failures == 0 ? "passed\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
