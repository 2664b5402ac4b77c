# find_package(edgeae) gives edgeae::edgeae (C++, headers only) and edgeae::c (the C interface).
include(CMakeFindDependencyMacro)
find_dependency(Threads)
include("${CMAKE_CURRENT_LIST_DIR}/edgeae-onnxruntime.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/edgeae-targets.cmake")
