# find_package(edgeae) gives edgeae::edgeae (C++, headers only), edgeae::c (the C interface) and, where zstd is there,
# edgeae::latents (edgeae/latents.hpp), which find_package(edgeae COMPONENTS latents) insists on.
include(CMakeFindDependencyMacro)
find_dependency(Threads)
include("${CMAKE_CURRENT_LIST_DIR}/edgeae-onnxruntime.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/edgeae-targets.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/edgeae-latents.cmake")
if("latents" IN_LIST edgeae_FIND_COMPONENTS AND NOT TARGET edgeae::latents)
  set(edgeae_FOUND FALSE)
  set(edgeae_NOT_FOUND_MESSAGE "${edgeae_no_zstd}")
endif()
