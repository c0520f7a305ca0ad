"""What a blueprint asks for beside what is installed: compared and told, never carried out."""
