package cref

// #include "cref.h"
import "C"

import (
	"fmt"
	"unsafe"
)

// MemoryVariable in the environment of a process has OpenSSL's allocations counted.
const MemoryVariable = "CREF_MEMORY"

// CountsMemory reports whether they are.
func CountsMemory() bool { return C.cref_memory_counts() == 1 }

// FailAllocation has the n-th allocation from now on fail, counted from 1, or that and all after it; 0 ends it.
func FailAllocation(n int, andAllAfter bool) {
	all := C.int(0)
	if andAllAfter {
		all = 1
	}
	C.cref_memory_fail(C.long(n-1), all)
}

// OnlyAllocationsOf has those alone counted and fail that a file of C makes; "" ends it.
func OnlyAllocationsOf(file string) {
	name := C.CString(file)
	defer C.free(unsafe.Pointer(name))
	C.cref_memory_only(name)
}

// Allocations counts those made so far and those that failed.
func Allocations() (made, failed int) {
	return int(C.cref_memory_made()), int(C.cref_memory_failed())
}

// LiveAllocations counts those that live, by the place in OpenSSL's source that made them.
func LiveAllocations() map[string]int {
	live := map[string]int{}
	var file *C.char
	var line C.int
	var n C.long
	for i := C.int(0); C.cref_memory_site(i, &file, &line, &n) == 1; i++ {
		if n != 0 {
			live[fmt.Sprintf("%s:%d", C.GoString(file), int(line))] += int(n)
		}
	}
	return live
}
