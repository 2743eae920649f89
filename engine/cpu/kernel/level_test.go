package kernel

import (
	"strings"
	"testing"
)

func TestChooseLevel(t *testing.T) {
	for _, c := range []struct {
		top  Level
		want string
		got  Level
		err  string // part of it, or none
	}{
		{AVX512BF16, "", AVX512BF16, ""},
		{AVX512BF16, "generic", Generic, ""},
		{AVX512BF16, "avx2", AVX2, ""},
		{AVX512, "avx512", AVX512, ""},
		{AVX2, "avx512", AVX2, "supports avx2 at most"},
		{AVX2, "sse9", AVX2, "not a CPU level"},
		{AVX2, "AVX2", AVX2, "not a CPU level"},
	} {
		got, err := chooseLevel(c.top, c.want)
		if got != c.got || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("chooseLevel(%s, %q) = %s, %v; want %s, error %q", c.top, c.want, got, err, c.got, c.err)
		}
	}
	if s := Level(9).String(); s != "Level(9)" {
		t.Errorf("Level(9) is %q", s)
	}
}
