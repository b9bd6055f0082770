"""Questions with answers that can be checked: arithmetic that is made here, and GSM8K's lines."""
