"""Exporters to the formats that engines read, and readers of foreign files. Host only."""
