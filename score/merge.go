package score

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
)

// MergeStats writes to path the statistics of the texts of a and b together: sums add
// up. Both must be of one model and one tokenizer, and of different texts.
func MergeStats(path string, a, b *Stats) error {
	if a.Model != b.Model || a.Tokenizer != b.Tokenizer || !slices.Equal(a.Widths, b.Widths) {
		return fmt.Errorf("%s and %s are statistics of different models or tokenizers; merge those of one model", a.path, b.path)
	}
	if a.Text == b.Text {
		return fmt.Errorf("%s and %s are statistics of the same text, which would count twice", a.path, b.path)
	}
	head := a.StatsHead
	head.Text = mergedText(a.Text, b.Text)
	head.Documents += b.Documents
	head.Context = max(a.Context, b.Context)
	head.Body, head.First, head.Held = a.Body+b.Body, a.First+b.First, a.Held+b.Held
	if a.Rows != b.Rows {
		head.Rows = "mixed"
	}
	if a.Seed != b.Seed {
		head.Seed = 0
	}
	w, err := CreateStats(path, head)
	if err != nil {
		return err
	}
	for l := range head.Widths {
		if err := mergeLayer(w, l, a, b); err != nil {
			w.file.Close()
			return err
		}
	}
	return w.Close()
}

func mergeLayer(w *StatsWriter, l int, a, b *Stats) error {
	x, err := a.Layer(l)
	if err != nil {
		return err
	}
	y, err := b.Layer(l)
	if err != nil {
		return err
	}
	x.Body.Add(y.Body)
	x.First.Add(y.First)
	x.Held.Add(y.Held)
	return w.WriteLayer(l, x)
}

// mergedText is the fingerprint of two texts together, in either order.
func mergedText(a, b string) string {
	texts := []string{a, b}
	slices.Sort(texts)
	sum := sha256.Sum256([]byte("coppice merged text 1\n" + texts[0] + "\n" + texts[1] + "\n"))
	return "sha256:" + hex.EncodeToString(sum[:])
}
