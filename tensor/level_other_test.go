//go:build !amd64

package tensor

import "testing"

// eachLevel runs the test with the plain Go code, the only one here.
func eachLevel(t *testing.T, test func(t *testing.T)) { t.Run("generic", test) }
