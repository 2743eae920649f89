package eval

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/coppice-lm/coppice/internal/filelock"
)

// LedgerName is the file in the output directory that holds every finished request.
const LedgerName = "ledger.jsonl"

const (
	ledgerFormat  = "coppice eval ledger"
	ledgerVersion = 1
	// A line reaches the system as soon as its request is done, so a killed process
	// loses none. Only a machine that stops can take away what was not synced yet.
	ledgerSyncEvery = 256 // lines
)

// ledgerHeader is the first line of a ledger: what its results belong to. Results are only
// taken over where all of it is equal.
type ledgerHeader struct {
	Format    string            `json:"format"`
	Version   int               `json:"version"`
	Weights   string            `json:"weights"`
	Tokenizer string            `json:"tokenizer"`
	DType     string            `json:"dtype"`
	BOS       BOSRule           `json:"bos"`
	MaxLength int               `json:"max_length"`
	Tasks     map[string]string `json:"tasks"` // fingerprint of the records asked, by task
}

// ledgerKey names a request: the choice of a record, or the window of a document. For
// Text the record is the window.
type ledgerKey struct {
	Task    string `json:"task"`
	Doc     int    `json:"doc"`
	Request int    `json:"request"`
}

// ledgerLine is a finished request.
type ledgerLine struct {
	ledgerKey
	LogLikelihood *float64 `json:"loglikelihood"`
	Greedy        *bool    `json:"greedy"`
}

// ledger appends results to its file. A nil ledger keeps nothing.
type ledger struct {
	file     *os.File
	unsynced int
}

// openLedger opens or creates the ledger in dir, which is locked until it is closed, and
// returns what it holds. One that belongs to another run is an error, unless force starts
// it afresh. A last line that was cut off by a kill is removed and warn is told.
func openLedger(dir string, header ledgerHeader, force bool, warn func(string)) (*ledger, map[ledgerKey]TokenResult, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, nil, writeError(err)
	}
	path := filepath.Join(dir, LedgerName)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, nil, writeError(err)
	}
	l, done, err := continueLedger(file, header, force, warn)
	if err != nil {
		file.Close()
	}
	return l, done, err
}

// continueLedger locks and reads the file of a ledger.
func continueLedger(file *os.File, header ledgerHeader, force bool, warn func(string)) (*ledger, map[ledgerKey]TokenResult, error) {
	path := file.Name()
	if err := filelock.Try(file); errors.Is(err, filelock.ErrHeld) {
		return nil, nil, Usagef("%s %w; wait for its end, or choose another directory", path, err)
	} else if err != nil {
		return nil, nil, writeError(err)
	}
	data, err := io.ReadAll(file)
	if err != nil {
		return nil, nil, writeError(err) // what cannot be read cannot be continued
	}
	found, done, valid, err := readLedger(data)
	if err != nil && !force {
		return nil, nil, fmt.Errorf("%s: %w; --force starts it afresh", path, err)
	}
	if diff := header.difference(found); err == nil && found != nil && diff != "" && !force {
		return nil, nil, Usagef("%s belongs to another run: %s; choose another directory, or --force to give its results up", path, diff)
	} else if err != nil || diff != "" {
		done, valid = nil, 0
	}
	l := &ledger{file: file}
	if err := l.begin(header, len(data), valid, warn); err != nil {
		return nil, nil, writeError(err)
	}
	return l, done, nil
}

// begin cuts the file of size bytes behind its valid lines and writes a header where none
// is left.
func (l *ledger) begin(header ledgerHeader, size, valid int, warn func(string)) error {
	if valid > 0 && valid < size {
		warn(fmt.Sprintf("%s: its last line was cut off by an interruption; it is removed (%d bytes) and its request is asked again", l.file.Name(), size-valid))
	}
	if err := l.file.Truncate(int64(valid)); err != nil {
		return err
	}
	if _, err := l.file.Seek(int64(valid), 0); err != nil {
		return err
	}
	if valid > 0 {
		return nil
	}
	if err := l.write(header); err != nil {
		return err
	}
	return l.file.Sync()
}

// readLedger reads the bytes of a ledger: its header, nil where there is not even one
// line, the results, and the number of bytes that whole lines take. A damaged line is an
// error, unless it is the last one.
func readLedger(data []byte) (header *ledgerHeader, done map[ledgerKey]TokenResult, valid int, err error) {
	done = map[ledgerKey]TokenResult{}
	for number := 1; valid < len(data); number++ {
		end := bytes.IndexByte(data[valid:], '\n')
		if end < 0 {
			break // torn
		}
		line, next := data[valid:valid+end], valid+end+1
		if header == nil {
			header, err = parseLedgerHeader(line)
		} else {
			err = readLedgerLine(line, done)
		}
		if err != nil && (next < len(data) || number == 1) {
			return nil, nil, 0, fmt.Errorf("line %d: %w", number, err)
		} else if err != nil {
			break // the last line, torn though it has its end
		}
		valid = next
	}
	return header, done, valid, nil
}

func parseLedgerHeader(line []byte) (*ledgerHeader, error) {
	var h ledgerHeader
	if err := json.Unmarshal(line, &h); err != nil || h.Format != ledgerFormat {
		return nil, fmt.Errorf("this is not the ledger of an evaluation")
	}
	if h.Version != ledgerVersion {
		return nil, fmt.Errorf("the ledger has version %d, this program writes %d", h.Version, ledgerVersion)
	}
	return &h, nil
}

func readLedgerLine(line []byte, done map[ledgerKey]TokenResult) error {
	var l ledgerLine
	if err := json.Unmarshal(line, &l); err != nil {
		return err
	}
	if l.Task == "" || l.LogLikelihood == nil || l.Greedy == nil {
		return fmt.Errorf("a finished request needs task, doc, request, loglikelihood and greedy")
	}
	done[l.ledgerKey] = TokenResult{*l.LogLikelihood, *l.Greedy}
	return nil
}

// difference says in words in what two headers differ, "" in nothing.
func (h ledgerHeader) difference(old *ledgerHeader) string {
	if old == nil {
		return ""
	}
	for _, f := range []struct{ name, old, now string }{
		{"weights are", old.Weights, h.Weights},
		{"tokenizer is", old.Tokenizer, h.Tokenizer},
		{"dtype is", old.DType, h.DType},
		{"BOS rule is", string(old.BOS), string(h.BOS)},
		{"maximum length is", fmt.Sprint(old.MaxLength), fmt.Sprint(h.MaxLength)},
	} {
		if f.old != f.now {
			return fmt.Sprintf("its %s %s, this run's %s", f.name, f.old, f.now)
		}
	}
	for name, fingerprint := range old.Tasks {
		switch now, ok := h.Tasks[name]; {
		case !ok:
			return fmt.Sprintf("it holds task %s, which this run does not ask", name)
		case now != fingerprint:
			return fmt.Sprintf("the records of task %s are others", name)
		}
	}
	for name := range h.Tasks {
		if _, ok := old.Tasks[name]; !ok {
			return fmt.Sprintf("it does not hold task %s", name)
		}
	}
	return ""
}

// add appends a finished request.
func (l *ledger) add(key ledgerKey, r TokenResult) error {
	if l == nil {
		return nil
	}
	if math.IsNaN(r.LogLikelihood) || math.IsInf(r.LogLikelihood, 0) {
		return fmt.Errorf("log-likelihood %v cannot be kept", r.LogLikelihood)
	}
	if err := l.write(ledgerLine{key, &r.LogLikelihood, &r.Greedy}); err != nil {
		return writeError(err)
	}
	if l.unsynced++; l.unsynced >= ledgerSyncEvery {
		l.unsynced = 0
		return writeError(l.file.Sync())
	}
	return nil
}

// write appends one line in one system call, so that a kill leaves it whole or torn at the
// end of the file, never mixed.
func (l *ledger) write(value any) error {
	line, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = l.file.Write(append(line, '\n'))
	return err
}

// close makes everything durable.
func (l *ledger) close() error {
	if l == nil {
		return nil
	}
	return writeError(errors.Join(l.file.Sync(), l.file.Close()))
}
