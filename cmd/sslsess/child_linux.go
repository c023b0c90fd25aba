package main

import (
	"os/exec"
	"syscall"
)

// endWithParent makes the kernel kill the child if this process is killed before
// it can end the child.
func endWithParent(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
