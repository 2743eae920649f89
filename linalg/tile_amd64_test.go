package linalg

import "testing"

func setTile(t *testing.T) []string {
	was := useAVX2
	t.Cleanup(func() { useAVX2 = was })
	if !was {
		t.Log("NOT CHECKED: the assembly, for this processor has no AVX2 and FMA, or COPPICE_CPU is generic")
		return []string{"generic"}
	}
	return []string{"generic", "avx2"}
}

func chooseTile(name string) { useAVX2 = name == "avx2" }
