package kernel

import (
	"fmt"
	"os"
)

// Level is a set of CPU instructions that kernels may use. Each level includes the
// ones below it.
type Level int

const (
	Generic    Level = iota // plain Go, any CPU
	AVX2                    // AVX2 and FMA3 (Haswell, Zen)
	AVX512                  // AVX-512 F, BW, DQ, VL (Skylake-X, Zen 4)
	AVX512BF16              // AVX-512 BF16 and VNNI (Cooper Lake, Zen 4)
)

var levelNames = [...]string{"generic", "avx2", "avx512", "avx512bf16"}

// String is the level's name as COPPICE_CPU spells it.
func (l Level) String() string {
	if l < 0 || int(l) >= len(levelNames) {
		return fmt.Sprintf("Level(%d)", int(l))
	}
	return levelNames[l]
}

// LevelVar is the environment variable that forces a lower level, for tests and for
// comparing results between machines.
const LevelVar = "COPPICE_CPU"

// active is the level in force. Only tests write it after start-up.
var active, levelErr = chooseLevel(supported(), os.Getenv(LevelVar))

// Active returns the level that kernels use: the highest that the CPU and the
// operating system support, or what COPPICE_CPU asks for.
func Active() Level { return active }

// LevelError reports a COPPICE_CPU that names no level, or one that this CPU lacks.
// The highest supported level is in force then. A program should check it once.
func LevelError() error { return levelErr }

func chooseLevel(top Level, want string) (Level, error) {
	if want == "" {
		return top, nil
	}
	for l, name := range levelNames {
		if name != want {
			continue
		}
		if Level(l) > top {
			return top, fmt.Errorf("%s=%s: this CPU supports %s at most; unset it or choose a lower level", LevelVar, want, top)
		}
		return Level(l), nil
	}
	return top, fmt.Errorf("%s=%s: not a CPU level; use generic, avx2, avx512 or avx512bf16", LevelVar, want)
}
