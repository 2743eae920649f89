package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// parseBytes reads a size such as 5GB, 500MB, 1GiB or 1000000.
func parseBytes(s string) (int64, error) {
	number := strings.TrimRight(s, "kKMGTiB")
	unit, ok := map[string]float64{"": 1, "B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
		"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}[s[len(number):]]
	v, err := strconv.ParseFloat(number, 64)
	if !ok || err != nil || !(v*unit >= 1 && v*unit < math.MaxInt64) {
		return 0, fmt.Errorf("%q is not a size such as 5GB or 500MB", s)
	}
	return int64(v * unit), nil
}
