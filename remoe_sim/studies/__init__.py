"""Questions that take several replays. The file is named like the public function."""
