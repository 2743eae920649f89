package kernel

import "golang.org/x/sys/cpu"

// supported is the highest level of this CPU. x/sys/cpu also asks the operating
// system whether it saves the vector registers.
func supported() Level {
	x := &cpu.X86
	switch {
	case !x.HasAVX2 || !x.HasFMA:
		return Generic
	case !x.HasAVX512F || !x.HasAVX512BW || !x.HasAVX512DQ || !x.HasAVX512VL:
		return AVX2
	case !x.HasAVX512BF16 || !x.HasAVX512VNNI:
		return AVX512
	}
	return AVX512BF16
}
