#!/bin/sh
# Builds and runs the C++ tests twice, once for each family of sanitizers; then fuzzes the
# Python binding under AddressSanitizer. It runs from the repository's root.
set -eu

build() {  # folder, sanitizers, more options
  folder=$1 sanitizers=$2
  shift 2
  cmake -S cpp -B "$folder" -G Ninja -DATHERIA_TESTS=ON -DATHERIA_SANITIZE="$sanitizers" "$@" \
    >"$folder.log" 2>&1 || { cat "$folder.log"; exit 1; }
  cmake --build "$folder" >>"$folder.log" 2>&1 || { cat "$folder.log"; exit 1; }
}

mkdir -p build
build build/address address,undefined -DSKBUILD=ON -DSKBUILD_PROJECT_VERSION=0 \
  -DPYBIND11_FINDPYTHON=ON -DPython_EXECUTABLE="$(command -v python)" \
  -Dpybind11_DIR="$(python -m pybind11 --cmakedir)"
ASAN_OPTIONS=detect_leaks=1 ctest --test-dir build/address --output-on-failure

build build/thread thread
ctest --test-dir build/thread --output-on-failure

# Python itself is not built for the sanitizer, so its library comes first by hand (with the C++
# library, whose exceptions it watches); leaks at an interpreter's exit are not ours to find.
library() { "${CXX:-c++}" -print-file-name="$1"; }
LD_PRELOAD="$(library libasan.so) $(library libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
  python tests/native/fuzz_binding.py build/address 10000
