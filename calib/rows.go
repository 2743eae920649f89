package calib

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/lm"
)

// RowMode says how documents become rows of tokens.
type RowMode string

// Packed puts documents one after another and cuts where a row is full. Padded gives each
// document rows of its own.
const (
	Packed RowMode = "packed"
	Padded RowMode = "padded"
)

// heldBack is one in how many documents is held back.
const heldBack = 10

// row is a sequence of tokens that the model runs.
type row struct {
	tokens []int32
	first  []bool // of each token: whether it is a first token
	labels []bool // of each token: whether the next one is a label, of the same document, which no model wrote
	spans  []span
	held   bool
}

// span says which document the tokens from at on are of.
type span struct{ at, document int }

// layout is the rows of a text.
type layout struct {
	rows      []row // those that are held back last
	names     []string
	documents int // that the rows are of
	bytes     int // of their text
	body      int64
	first     int64
	held      int64
}

func (l *layout) tokens() int64 { return l.body + l.first + l.held }

// builder fills rows of one class up to a number of tokens.
type builder struct {
	held   bool
	budget int
	ctx    int
	bos    int32
	pad    bool
	rows   []row
}

func (b *builder) full() bool { return b.budget == 0 }

// add appends a document's tokens.
func (b *builder) add(document int, tokens []int32, written bool) {
	tokens = tokens[:min(len(tokens), b.budget)]
	b.budget -= len(tokens)
	for start := true; len(tokens) > 0; start = false {
		if last := len(b.rows) - 1; last < 0 || len(b.rows[last].tokens) == b.ctx || b.pad {
			b.rows = append(b.rows, row{held: b.held})
		}
		r := &b.rows[len(b.rows)-1]
		n := min(len(tokens), b.ctx-len(r.tokens))
		r.spans = append(r.spans, span{len(r.tokens), document})
		for i, t := range tokens[:n] {
			r.first = append(r.first, len(r.tokens) == 0 || start && i == 0 || t == b.bos && b.bos >= 0)
			r.tokens = append(r.tokens, t)
			r.labels = append(r.labels, i+1 < n && !written)
		}
		tokens = tokens[n:]
	}
}

// layRows shuffles and encodes documents until there are enough tokens.
func layRows(m *lm.Layerwise, documents []document, opt *Options) (*layout, error) {
	l := &layout{}
	order := rand.New(rand.NewPCG(opt.Seed, 0)).Perm(len(documents))
	make := func(held bool, budget int) *builder {
		return &builder{held: held, budget: budget, ctx: opt.Context, bos: m.Tokenizer().BOS(), pad: opt.Rows == Padded}
	}
	tenth := opt.Tokens / heldBack
	if len(documents) < heldBack {
		tenth = 0
	}
	fit, held := make(false, opt.Tokens-tenth), make(true, tenth)
	vocab := m.Engine().Model().Vocab
	for i, at := range order {
		b := fit
		if i%heldBack == heldBack-1 {
			b = held
		}
		if fit.full() && held.full() {
			break
		}
		if b.full() {
			continue
		}
		tokens := m.Tokenizer().Encode(documents[at].text, true)
		for _, t := range tokens {
			if t < 0 || int(t) >= vocab {
				return nil, fmt.Errorf("%s: token %d is not in the model's vocabulary of %d: the tokenizer belongs to another model", documents[at].name, t, vocab)
			}
		}
		b.add(len(l.names), tokens, documents[at].written)
		l.names = append(l.names, documents[at].name)
		l.bytes += len(documents[at].text)
		l.documents++
	}
	l.rows = append(fit.rows, held.rows...)
	for _, r := range l.rows {
		for i := range r.tokens {
			switch {
			case r.first[i]:
				l.first++
			case r.held:
				l.held++
			default:
				l.body++
			}
		}
	}
	return l, nil
}

// fingerprint identifies the rows: SHA-256 over their tokens and classes.
func (l *layout) fingerprint() string {
	h := sha256.New()
	h.Write([]byte("coppice calibration rows 1\n"))
	for _, r := range l.rows {
		b := binary.LittleEndian.AppendUint32(nil, uint32(len(r.tokens)))
		for i, t := range r.tokens {
			class := byte(0)
			if r.first[i] {
				class |= 1
			}
			if r.held {
				class |= 2
			}
			b = append(binary.LittleEndian.AppendUint32(b, uint32(t)), class)
		}
		h.Write(b)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// document names the document of a token of a row.
func (l *layout) document(r *row, index int) string {
	name := ""
	for _, s := range r.spans {
		if s.at <= index {
			name = l.names[s.document]
		}
	}
	return name
}

// batchTokens is the size of a batch: enough rows for the matrix products to run at full
// speed. The order in which sums are added depends on it.
const batchTokens = 1024

// batch is rows that are run together, all held back or none.
type batch struct {
	rows   []row
	first  int64 // how many tokens are before it
	tokens int
}

// batches cuts the rows into stretches of about batchTokens tokens.
func (l *layout) batches() []batch {
	var all []batch
	at := int64(0)
	for first := 0; first < len(l.rows); {
		end, tokens := first, 0
		for end < len(l.rows) && l.rows[end].held == l.rows[first].held && (end == first || tokens+len(l.rows[end].tokens) <= batchTokens) {
			tokens += len(l.rows[end].tokens)
			end++
		}
		all = append(all, batch{l.rows[first:end], at, tokens})
		first, at = end, at+int64(tokens)
	}
	return all
}

// batchOf makes the engine's form of rows.
func batchOf(rows []row) engine.Batch {
	var b engine.Batch
	for _, r := range rows {
		b.Nodes = append(b.Nodes, engine.Node{Parent: -1, Tokens: r.tokens})
	}
	return b
}
