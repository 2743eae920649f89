package main

import (
	"os/exec"
	"syscall"
)

// endWithParent has the kernel kill a child whose parent is killed.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
