//go:build !unix

package main

import "os"

func peakOf(*os.ProcessState) int64 { return 0 }

func interrupt(p *os.Process) error { return p.Kill() } // Windows has no interruption of one process
