//go:build !linux

package main

import (
	"errors"
	"syscall"
	"time"
)

func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func cpuTime(int) (time.Duration, error) { return 0, errors.ErrUnsupported } // only Linux has such a clock
