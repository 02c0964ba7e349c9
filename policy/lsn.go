package policy

import (
	"fmt"
	"strconv"
	"strings"
)

// FormatLSN writes a position in the write-ahead log as PostgreSQL does: "16/B374D848" (manual, "pg_lsn Type").
func FormatLSN(lsn uint64) string { return fmt.Sprintf("%X/%X", lsn>>32, uint32(lsn)) }

// ParseLSN reads what FormatLSN writes, in any case of letters: two hexadecimal numbers of one to eight digits, as pg_lsn_in in
// src/backend/utils/adt/pg_lsn.c takes them.
func ParseLSN(s string) (uint64, error) {
	high, low, found := strings.Cut(s, "/")
	h, errHigh := parseHex(high)
	l, errLow := parseHex(low)
	if !found || errHigh != nil || errLow != nil {
		return 0, fmt.Errorf("%q is not a position in the write-ahead log", s)
	}
	return h<<32 | l, nil
}

func parseHex(s string) (uint64, error) {
	if len(s) > 8 {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseUint(s, 16, 32)
}
