package tasks

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/parquet-go/parquet-go"
)

// parquetMagic begins every Parquet file.
const parquetMagic = "PAR1"

// parseParquet reads each row as the JSON object that it would be in the data-set library's
// JSON export.
func parseParquet(path string, data []byte) (records []record, err error) {
	// The library checks much, but not all, of what a damaged file may say.
	defer func() {
		if p := recover(); p != nil {
			records, err = nil, fmt.Errorf("%s: row %d: the Parquet file is damaged: %v", path, len(records)+1, p)
		}
	}()
	file, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	reader := parquet.NewReader(file)
	defer reader.Close()
	for {
		row := map[string]any{}
		if err := reader.Read(&row); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("%s: row %d: %w", path, len(records)+1, err)
		}
		raw, err := marshal(row)
		if err != nil {
			return nil, fmt.Errorf("%s: row %d: %w", path, len(records)+1, err)
		}
		r, err := parseRecord(raw)
		r.line = len(records) + 1
		if err != nil {
			return nil, r.errorf(path, err)
		}
		records = append(records, r)
	}
	if len(records) == 0 {
		return nil, fmt.Errorf("%s: it holds no row", path)
	}
	return records, nil
}
