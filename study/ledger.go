package study

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/coppice-lm/coppice/eval"
)

// Ledger is what a study has measured so far.
type Ledger struct {
	Study string // name of the study that began the ledger
	// Records hold one record a cell: of several the last one, and a finished one before a
	// failed one. They stand in the order of the cells' first lines.
	Records     []Record
	Comparisons []Comparison // one a pair, likewise
	// Notes say what was found damaged and left out.
	Notes []string
}

// header is a ledger's first line.
type header struct {
	Version int    `json:"ledger"`
	Format  string `json:"format"`
	Study   string `json:"study"`
}

const ledgerFormat = "coppice study ledger"

// VersionError says that a ledger, or a line of one, was written by a newer program.
type VersionError struct {
	Path    string
	Line    int // from 1
	Version int
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("%s:%d: version %d of the study's ledger is newer than this program, which knows version %d; use a newer Coppice", e.Path, e.Line, e.Version, LedgerVersion)
}

// ReadLedger reads a ledger. A last line that was cut off by a kill is left out and noted;
// any other line that cannot be read is an error with its number, and one of a newer version
// a *VersionError.
func ReadLedger(path string) (*Ledger, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	l, valid, err := parseLedger(path, data)
	if err != nil {
		return nil, err
	}
	if valid < len(data) {
		l.Notes = append(l.Notes, fmt.Sprintf("%s: its last line was cut off by an interruption and is left out (%d bytes)", path, len(data)-valid))
	}
	return l, nil
}

// parseLedger reads the bytes of a ledger, and says how many of them whole lines take.
func parseLedger(path string, data []byte) (l *Ledger, valid int, err error) {
	l = &Ledger{}
	for number := 1; valid < len(data); number++ {
		end := bytes.IndexByte(data[valid:], '\n')
		if end < 0 {
			if number == 1 && !isTornHeader(data) {
				return nil, 0, fmt.Errorf("%s:1: %w", path, errNoLedger)
			}
			break // torn
		}
		line, next := data[valid:valid+end], valid+end+1
		if number == 1 {
			err = l.readHeader(path, line)
		} else {
			err = l.readLine(path, number, line)
		}
		var newer *VersionError
		switch {
		case errors.As(err, &newer):
			return nil, 0, err
		case err != nil && number > 1 && next == len(data):
			return l, valid, nil // torn though it has its end: a block that never reached the disk
		case err != nil:
			return nil, 0, fmt.Errorf("%s:%d: %w", path, number, err)
		}
		valid = next
	}
	return l, valid, nil
}

var errNoLedger = errors.New("this is not the ledger of a study")

// isTornHeader reports whether bytes without the end of a line may be what a killed run left
// of a header: its beginning, or a block that never reached the disk. Anything else is
// somebody's file, and is not to be taken for an empty ledger.
func isTornHeader(data []byte) bool {
	const begin = `{"ledger":`
	n := min(len(data), len(begin))
	return string(data[:n]) == begin[:n] || len(bytes.Trim(data, "\x00")) == 0
}

func (l *Ledger) readHeader(path string, line []byte) error {
	var h header
	if err := json.Unmarshal(line, &h); err != nil || h.Format != ledgerFormat {
		return errNoLedger
	}
	if h.Version > LedgerVersion {
		return &VersionError{path, 1, h.Version}
	}
	if h.Version < 1 {
		return fmt.Errorf("key \"ledger\" is %d; versions begin at 1", h.Version)
	}
	l.Study = h.Study
	return nil
}

// readLine reads a record or a comparison. What tells them apart is the type of the key
// "cell", an object in the one and an ID in the other.
func (l *Ledger) readLine(path string, number int, line []byte) error {
	var v struct {
		Record                  // but for the keys below, which hide its own
		Version int             `json:"version"`
		Cell    json.RawMessage `json:"cell"`
		Against string          `json:"against"`
		Rows    []eval.Row      `json:"rows"`
	}
	err := json.Unmarshal(line, &v) // once: ledgers are long
	if v.Version > LedgerVersion {
		return &VersionError{path, number, v.Version}
	}
	switch {
	case err != nil:
		return err
	case v.Version < 1 || len(v.Cell) == 0:
		return errors.New("neither a record nor a comparison: both have the keys \"version\" and \"cell\"")
	case v.Cell[0] == '{':
		r := v.Record
		r.Version = v.Version
		if err := json.Unmarshal(v.Cell, &r.Cell); err != nil {
			return err
		}
		if err := r.check(); err != nil {
			return err
		}
		l.addRecord(r)
	default:
		c := Comparison{Version: v.Version, Against: v.Against, Rows: v.Rows}
		if err := json.Unmarshal(v.Cell, &c.Cell); err != nil {
			return err
		}
		if c.Cell == "" || c.Against == "" {
			return errors.New("a comparison needs the keys \"cell\" and \"against\"")
		}
		l.addComparison(c)
	}
	return nil
}

// check holds a record against itself, so that those who use it need not.
func (r *Record) check() error {
	if r.Cell.ID == "" {
		return errors.New("a record's cell needs an \"id\"")
	}
	if r.Status != Done && r.Status != Failed {
		return fmt.Errorf("cell %s: the status is %q, neither %q nor %q", r.Cell.ID, r.Status, Done, Failed)
	}
	for i := range r.Tasks {
		if err := r.Tasks[i].check(); err != nil {
			return fmt.Errorf("cell %s: task %s: %w", r.Cell.ID, r.Tasks[i].Name, err)
		}
	}
	return nil
}

func (l *Ledger) addRecord(r Record) {
	if old := l.Record(r.Cell.ID); old == nil {
		l.Records = append(l.Records, r)
	} else if old.Status != Done || r.Status == Done {
		*old = r
	}
}

func (l *Ledger) addComparison(c Comparison) {
	i := slices.IndexFunc(l.Comparisons, func(o Comparison) bool { return o.Cell == c.Cell && o.Against == c.Against })
	if i < 0 {
		l.Comparisons = append(l.Comparisons, c)
	} else {
		l.Comparisons[i] = c
	}
}

// Record returns the record of a cell, or nil.
func (l *Ledger) Record(id string) *Record {
	for i := range l.Records {
		if l.Records[i].Cell.ID == id {
			return &l.Records[i]
		}
	}
	return nil
}

// Comparison returns the comparison of a cell with another one, or nil.
func (l *Ledger) Comparison(cell, against string) *Comparison {
	for i := range l.Comparisons {
		if c := &l.Comparisons[i]; c.Cell == cell && c.Against == against {
			return c
		}
	}
	return nil
}

// Encode returns the file form of the ledger: its records in the order of Cell.Compare,
// then its comparisons in that of their cells.
func (l *Ledger) Encode() ([]byte, error) {
	sorted := Ledger{l.Study, slices.Clone(l.Records), slices.Clone(l.Comparisons), nil}
	sorted.sort()
	b, err := encodeLine(header{LedgerVersion, ledgerFormat, sorted.Study})
	if err != nil {
		return nil, err
	}
	for i := range sorted.Records {
		line, err := encodeLine(&sorted.Records[i])
		if err != nil {
			return nil, err
		}
		b = append(b, line...)
	}
	for i := range sorted.Comparisons {
		line, err := encodeLine(&sorted.Comparisons[i])
		if err != nil {
			return nil, err
		}
		b = append(b, line...)
	}
	return b, nil
}

// Canonical is Encode without what differs from one run to the next: two studies of the
// same file have the same canonical form, however often they were interrupted and on however
// many machines they ran.
func (l *Ledger) Canonical() ([]byte, error) {
	bare := *l
	bare.Records = slices.Clone(l.Records)
	for i := range bare.Records {
		bare.Records[i].Run = nil
	}
	return bare.Encode()
}

// sort orders records as Cell.Compare does, and comparisons by their cells.
func (l *Ledger) sort() {
	slices.SortStableFunc(l.Records, func(a, b Record) int { return a.Cell.Compare(&b.Cell) })
	place := map[string]int{}
	for i := range l.Records {
		place[l.Records[i].Cell.ID] = i + 1
	}
	slices.SortStableFunc(l.Comparisons, func(a, b Comparison) int {
		return cmp.Or(cmp.Compare(place[a.Cell], place[b.Cell]), cmp.Compare(place[a.Against], place[b.Against]), cmp.Compare(a.Cell+a.Against, b.Cell+b.Against))
	})
}

// encodeLine is the JSON of a line, with its end and without the escapes for HTML.
func encodeLine(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}
