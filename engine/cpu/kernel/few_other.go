//go:build !amd64

package kernel

// There are no kernels for few rows: the general product takes them.

func (w *F32) mulFew([]float32, int, []float32, int, int, int, int) bool { return false }
func (w *F16) mulFew([]float32, int, []float32, int, int, int, int) bool { return false }
func (w *BF16) mulFew([]float32, int, []uint16, int, int, int, int) bool { return false }
