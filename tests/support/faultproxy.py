"""The proxy that spoils answers; the soak of the benchmark uses it, too."""

from zerofs.bench.faultproxy import Fault, FaultProxy, Kind

__all__ = ["Fault", "FaultProxy", "Kind"]
