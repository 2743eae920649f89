//go:build !amd64

package linalg

// levels is plain Go: there is no assembly for this processor.
func levels() []level { return []level{generic} }
