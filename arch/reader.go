package arch

import (
	"encoding/json"
	"fmt"
	"slices"
)

// reader reads many values of a Config and keeps the first error.
type reader struct {
	c   *Config
	err error
}

func get[T any](r *reader, read func(key string, def T) (T, error), key string, def T) T {
	v, err := read(key, def)
	if err != nil && r.err == nil {
		r.err = err
	}
	return v
}

func (r *reader) int(key string, def int) int           { return get(r, r.c.Int, key, def) }
func (r *reader) float(key string, def float64) float64 { return get(r, r.c.Float, key, def) }
func (r *reader) bool(key string, def bool) bool        { return get(r, r.c.Bool, key, def) }
func (r *reader) text(key, def string) string           { return get(r, r.c.Text, key, def) }

// optional is the number of a key: def where the key is absent, 0 where it is null,
// which switches the feature off.
func (r *reader) optional(key string, def float64) float64 {
	if r.c.Has(key) {
		def = 0
	}
	return r.float(key, def)
}

// positiveOr is the number of a key, or def where it is absent, null or zero.
func (r *reader) positiveOr(key string, def float64) float64 {
	v := r.float(key, def)
	if v == 0 {
		return def
	}
	if v < 0 && r.err == nil {
		r.err = fmt.Errorf("key %q is %v, expected a positive number", key, v)
	}
	return v
}

// required is a number that must be there.
func (r *reader) required(key string) float64 {
	if _, ok := r.c.Raw(key); !ok && r.err == nil {
		r.err = fmt.Errorf("key %q is missing", key)
	}
	return r.float(key, 0)
}

// floats is a list of positive numbers that must be there.
func (r *reader) floats(key string) []float64 {
	var list []float64
	raw, ok := r.c.Raw(key)
	if !ok {
		r.fail(fmt.Errorf("key %q is missing", key))
	} else if err := json.Unmarshal(raw, &list); err != nil {
		r.fail(fmt.Errorf("key %q is not a list of numbers", key))
	} else if slices.ContainsFunc(list, func(v float64) bool { return v <= 0 }) {
		r.fail(fmt.Errorf("key %q holds a number that is not positive", key))
	}
	return list
}

// perLayer reads a list with an entry for each of n layers; entries beyond are ignored.
// It is nil where the key is absent or null.
func perLayer[T any](r *reader, key string, n int) []T {
	raw, ok := r.c.Raw(key)
	if !ok {
		return nil
	}
	var list []T
	if err := json.Unmarshal(raw, &list); err != nil {
		r.fail(fmt.Errorf("key %q is not the expected list: %w", key, err))
		return nil
	}
	if len(list) < n {
		r.fail(fmt.Errorf("key %q has %d entries, expected one for each of %d layers", key, len(list), n))
		return nil
	}
	return list
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}
