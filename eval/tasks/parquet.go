package tasks

import (
	"fmt"

	"github.com/coppice-lm/coppice/internal/parquetrows"
)

// parseParquet reads each row as the JSON object that it would be in the data-set library's
// JSON export.
func parseParquet(path string, data []byte) ([]record, error) {
	var records []record
	err := parquetrows.Each(path, data, func(row int, fields map[string]any) error {
		raw, err := marshal(fields)
		if err != nil {
			return fmt.Errorf("%s: row %d: %w", path, row, err)
		}
		r, err := parseRecord(raw)
		r.line = row
		if err != nil {
			return r.errorf(path, err)
		}
		records = append(records, r)
		return nil
	})
	if err == nil && len(records) == 0 {
		err = fmt.Errorf("%s: it holds no row", path)
	}
	return records, err
}
