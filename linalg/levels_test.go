package linalg

import "testing"

// eachLevel runs the test at each level of this processor.
func eachLevel(t *testing.T, f func(t *testing.T)) {
	was := active
	t.Cleanup(func() { active = was })
	all := levels()
	if len(all) == 1 {
		t.Log("NOT CHECKED: the assembly, for this processor has no AVX2 and FMA, or COPPICE_CPU is generic")
	}
	for _, l := range all {
		t.Run(l.name, func(t *testing.T) {
			active = l
			f(t)
		})
	}
}
