//go:build !amd64

package kernel

// supported is Generic: only amd64 has assembly.
func supported() Level { return Generic }
