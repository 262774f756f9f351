"""Steps of demonstrations on Android devices."""
