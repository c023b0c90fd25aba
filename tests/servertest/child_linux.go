package servertest

import (
	"os/exec"
	"syscall"
)

// endWithParent has the kernel end the child should this process be killed
// before it can.
func endWithParent(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
