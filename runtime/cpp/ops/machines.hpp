// Which instruction sets this processor has.
#pragma once

#include <string>
#include <vector>

#include "chain.hpp"

namespace edgeae::ops {

// Those that were compiled and run here, the fastest first; the last one is "portable".
std::vector<const Machine*> available_machines();

// The fastest, or the one called `name` if that is not empty. Throws std::invalid_argument if it does not run here.
const Machine& choose_machine(const std::string& name);

}  // namespace edgeae::ops
