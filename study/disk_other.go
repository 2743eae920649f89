//go:build !(linux || darwin)

package study

import (
	"errors"
	"io/fs"
)

func diskFree(string) (int64, error) { return 0, errors.ErrUnsupported }

func deviceOf(fs.FileInfo) any { return nil }
