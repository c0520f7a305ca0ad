"""What blueprints for the existing plugin rely on, row by row; and the defects that must not come back."""
